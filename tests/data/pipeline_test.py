"""Order, shards and the state of the iterator."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from sslx.config import ConfigError
from sslx.data import pipeline
from sslx.data.order import Order
from sslx.data.sets import Arrays
from sslx.data.views import Crop, Slot
from sslx.errors import RunError
from sslx.parallel import Parallel, Partitioner
from tests import tiny
from tests.data import photos


def arrays(n=50):
  images = np.arange(n, dtype=np.uint8)[:, None, None, None]
  images = np.broadcast_to(images, (n, 2, 2, 3)).copy()
  return Arrays(images, np.arange(n, dtype=np.int32), n)


EIGHT = np.arange(8)
DATA = pipeline.Data("shapes", 8, (Crop(2),), (0.0,) * 3, (1.0,) * 3)


def labels(batches):
  return [np.asarray(batch["label"]) for batch in batches]


def host(order, rows=EIGHT, **settings):
  return pipeline.host_batches(arrays(), order, rows, DATA, **settings)


def host_labels(order):
  return labels(batch.arrays for batch in host(order))


def test_every_epoch_is_another_permutation_and_drops_the_partial_batch():
  order = Order(50, 8, steps=18, seed=0)
  assert len(order) == 18
  epochs = [
    np.concatenate([order[6 * e + i] for i in range(6)]) for e in range(3)
  ]
  for epoch in epochs:
    assert len(set(epoch)) == 48
  assert not np.array_equal(epochs[0], epochs[1])
  assert not np.array_equal(epochs[1], epochs[2])


def test_order_depends_on_the_seed_alone():
  first, again, other = (Order(50, 8, steps=6, seed=s)[2] for s in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize(
  "rows", [[range(4), range(4, 8)], [(0, 1, 6, 7), (2, 3, 4, 5)]]
)
@pytest.mark.parametrize("slot", [Slot(0), Slot(0, shuffled=True)])
def test_processes_load_disjoint_rows_of_the_same_batches(rows, slot):
  order = Order(50, 8, steps=6, seed=3)
  rows = [np.array(x) for x in rows]
  whole, *parts = (
    [batch.arrays for batch in host(order, x, slots=(slot,))]
    for x in (EIGHT, *rows)
  )
  assert len(whole) == 6
  for batch, *halves in zip(whole, *parts, strict=True):
    assert ("shuffled_image" in batch) == slot.shuffled
    for key, value in batch.items():
      for mine, half in zip(rows, halves, strict=True):
        np.testing.assert_array_equal(half[key], value[mine], key)


def test_images_belong_to_labels_and_to_their_numbers():
  order = Order(50, 8, steps=6, seed=0)
  for i, (batch, _) in enumerate(host(order)):
    np.testing.assert_array_equal(batch["index"], order[i])
    np.testing.assert_array_equal(batch["image"][:, 1, 1, 2], batch["label"])


@pytest.mark.parametrize("taken", [0, 1, 5, 6, 11])
def test_state_is_of_the_batches_handed_out_not_of_those_made_ahead(taken):
  order = Order(50, 8, steps=12, seed=0)
  straight = host_labels(order)
  batches = pipeline.Batches(host(order), lambda x: x, ahead=3)
  for _ in range(taken):
    next(batches)
  start = batches.state["next_index"]
  batches.close()
  resumed = pipeline.Batches(host(order, start=start), lambda x: x, start=start)
  rest = labels(resumed)
  resumed.close()
  assert len(rest) == 12 - taken
  for new, old in zip(rest, straight[taken:], strict=True):
    np.testing.assert_array_equal(new, old)


def test_an_error_of_the_thread_reaches_the_consumer():
  def put(batch):
    raise RuntimeError("the device is gone")

  order = Order(50, 8, steps=6, seed=0)
  batches = pipeline.Batches(host(order), put)
  for _ in range(2):
    with pytest.raises(RuntimeError, match="the device is gone"):
      next(batches)
  batches.close()


def test_batches_are_spread_over_the_devices_in_order():
  partitioner = Partitioner.create(Parallel(), jax.devices())
  rows = partitioner.local_rows(16)
  order = Order(50, 16, steps=3, seed=0)
  batches = pipeline.Batches(host(order, rows), partitioner.put)
  batch = next(batches)
  batches.close()
  assert batch["image"].sharding.is_equivalent_to(partitioner.batch, 4)
  np.testing.assert_array_equal(batch["label"], order[0])
  for shard in batch["label"].addressable_shards:
    np.testing.assert_array_equal(shard.data, order[0][shard.index])


def test_a_batch_larger_than_the_set_is_refused():
  with pytest.raises(ConfigError, match="batch_size is 64, .* only 50 images"):
    Order(50, 64, steps=1, seed=0)


def batch_of(mib):
  return {"views": (jax.ShapeDtypeStruct((mib, 2**20), np.uint8),)}


def test_a_small_dev_shm_is_refused_before_any_worker_starts(monkeypatch):
  room = types.SimpleNamespace(f_bavail=64 * 256, f_frsize=4096)  # 64 MiB
  asked = []
  monkeypatch.setattr(os, "statvfs", lambda path: asked.append(path) or room)
  pipeline.check_workers(batch_of(12), 1)  # 60 MiB
  with pytest.raises(ConfigError) as caught:
    pipeline.check_workers(batch_of(12), 2)
  assert "has 64 MiB free; they need 96 MiB" in str(caught.value)
  assert "--shm-size=96m" in str(caught.value)
  assert asked == ["/dev/shm"] * 2
  pipeline.check_workers(batch_of(1000), 0)


def workers_that_end(message):
  yield 1
  raise RuntimeError(message)


def test_a_worker_process_that_dies_is_one_clear_error():
  grains = (
    "Worker process was terminated unexpectedly with exit code -7. Search"
  )
  batches = pipeline._of_workers(workers_that_end(grains))
  assert next(batches) == 1
  with pytest.raises(RunError, match="code -7. -7 means that /dev/shm"):
    next(batches)
  with pytest.raises(RuntimeError, match="^a bug$"):
    list(pipeline._of_workers(workers_that_end("a bug")))


IN_A_SMALL_DEV_SHM = """
import numpy as np
from sslx.data import files, pipeline
from sslx.data.order import Order
from sslx.data.views import Crop
from sslx.errors import RunError

if __name__ == "__main__":
  images = files.open_files("images", None, "train")
  data = pipeline.Data(
    "folder", 4, (Crop(900),), (0,) * 3, (1,) * 3, workers=1, threads=1
  )
  order = Order(4, 4, steps=9, seed=0)
  try:
    next(pipeline.host_batches(images, order, np.arange(4), data))
  except RunError as error:
    print(error)
"""


@pytest.mark.slow
def test_worker_processes_in_a_small_dev_shm(tmp_path):
  mount = "mount -t tmpfs -o size=2m tmpfs /dev/shm"
  own = ["unshare", "--mount", "sh", "-c"]
  try:
    subprocess.run([*own, mount], check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("a /dev/shm of one's own takes rights that are not here")
  (tmp_path / "images").mkdir()
  for i in range(4):
    data = photos.jpeg(photos.photo(30, 40, i))
    (tmp_path / "images" / f"{i}.jpg").write_bytes(data)
  (tmp_path / "run.py").write_text(IN_A_SMALL_DEV_SHM)
  done = subprocess.run(
    [*own, f"{mount} && {sys.executable} run.py"],
    cwd=tmp_path,
    env=tiny.environment() | {"PYTHONPATH": str(tiny.ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert "-7 means that /dev/shm is full" in done.stdout, done.stderr
