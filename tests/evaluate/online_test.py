"""Evaluation of sets of which some images cannot be decoded."""

import dataclasses
import socket
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import parallel
from sslx.config import ConfigError
from sslx.data import files, pipeline
from sslx.data.views import Centre, Crop
from sslx.evaluate.encoder import Encoder, Reader
from sslx.evaluate.evaluators import EffectiveRank, Neighbours
from sslx.evaluate.knn import KNN
from sslx.evaluate.online import Online
from sslx.methods.base import Method
from tests import tiny
from tests.data import photos

DATA = pipeline.Data(
  "folder", 4, (Crop(8),), (0.0,) * 3, (1.0,) * 3, centre=Centre(8, 8)
)
STATE = types.SimpleNamespace(params={}, model_state={}, aux={})


class Means(Method):
  """The features of an image are the means of its colours."""

  def encode(self, params, model_state, images):
    return {"final": jnp.mean(images, axis=(1, 2))}


def write(root, count, bad=()):
  """Two classes, of other colours; the numbers in `bad` are no images."""
  for i in range(count):
    path = root / f"class {i % 2}" / f"{i:03}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = photos.photo(16, 16, i)
    picture[..., 2 * (i % 2)] = 0
    data = photos.jpeg(picture)
    path.write_bytes(b"<html>404</html>" if i in bad else data)


def online(root, devices=None, k=(3,), **settings):
  train = files.open_files(str(root), "train", "train")
  test = files.open_files(str(root), "test", "test", train.classes)
  partitioner = parallel.Partitioner.create(parallel.Parallel(), devices)
  reader = Reader(dataclasses.replace(DATA, **settings), partitioner, 8)
  neighbours = Neighbours(KNN(k=k), 2, partitioner.mesh)
  images = {"train": train, "test": test}
  return Online(Means(backbone=None), images, reader, [neighbours])


def test_bad_images_are_counted_named_once_and_left_out(tmp_path):
  write(tmp_path / "train", 30, bad=(3, 8))
  write(tmp_path / "test", 21, bad=(0, 20))
  evaluator = online(tmp_path, max_bad=0.1)
  said = []
  results = evaluator.run(STATE, said.append).scalars
  assert results["bad_images"] == 4
  assert results["knn_3"] == 1.0  # Of 19 test images: those are easy.
  assert len(said) == 4
  for name in ("train/class 1/003.jpg", "test/class 0/020.jpg"):
    (line,) = (line for line in said if name in line)
    assert "cannot be decoded (16 bytes that do not decode" in line
  # In the next evaluation they are counted, but not named again.
  assert evaluator.run(STATE, said.append).scalars["bad_images"] == 4
  assert len(said) == 4


def test_a_whole_set_counts_none(tmp_path):
  write(tmp_path / "train", 9)
  write(tmp_path / "test", 9)
  assert online(tmp_path).run(STATE, pytest.fail).scalars["bad_images"] == 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_more_than_allowed_are_an_error_in_either_set(tmp_path, split):
  for name in ("train", "test"):
    write(tmp_path / name, 20, bad=(4, 5, 6) if name == split else ())
  evaluator = online(tmp_path, max_bad=0.1)  # 2 of 20
  with pytest.raises(ConfigError) as caught:
    evaluator.run(STATE, lambda text: None)
  message = str(caught.value)
  assert "3 of 20 images cannot be decoded, such as" in message
  assert f"{split}/class" in message and "config.data.max_bad=0.1" in message
  results = online(tmp_path, max_bad=0.15).run(STATE, print)
  assert results.scalars["bad_images"] == 3


def test_a_bank_with_bad_images_has_fewer_neighbours(tmp_path):
  write(tmp_path / "train", 20, bad=(4,))
  write(tmp_path / "test", 8)
  found = online(tmp_path, k=(3, 20), max_bad=0.05).run(STATE, print).scalars
  # All 19 vote, weighted by nearness: the nearest two classes decide.
  assert found.keys() >= {"knn_3", "knn_20"} and found["knn_3"] == 1.0


def test_a_bank_is_written_in_place():
  """No second bank exists, not even for a moment."""
  partitioner = parallel.Partitioner.create(parallel.Parallel())
  encoder = Encoder(lambda _, x: {}, Reader(DATA, partitioner, 8))
  struct = lambda shape, sharding: jax.ShapeDtypeStruct(
    shape, jnp.float32, sharding=sharding
  )
  bank = struct((64, 8, 256), partitioner.batches)
  batch = struct((8, 256), partitioner.batch)
  program = encoder._set.lower(bank, batch, jnp.int32(0)).compile()
  found = program.memory_analysis()
  size = 64 * 256 * 4  # of each of eight devices
  assert found.alias_size_in_bytes == found.output_size_in_bytes == size
  assert found.temp_size_in_bytes < size / 10


class Width:
  """An evaluator from outside the package: a scalar, and a picture."""

  sets, features = ("train",), ("final",)

  def __call__(self, state, found):
    assert set(found) >= {"train"}
    (rows,) = found["train"].rows.values()
    return {"width": rows.shape[-1], "a": np.zeros((2, 2, 3), np.uint8)}


def test_evaluators_of_ones_own_share_what_is_encoded_once(tmp_path):
  write(tmp_path / "train", 20)
  write(tmp_path / "test", 9)
  read = []

  class Counting(Reader):
    def __call__(self, images, *arguments):
      read.append(len(images))
      return super().__call__(images, *arguments)

  train = files.open_files(str(tmp_path), "train", "train")
  test = files.open_files(str(tmp_path), "test", "test", train.classes)
  partitioner = parallel.Partitioner.create(parallel.Parallel())
  reader = Counting(DATA, partitioner, 8)
  rank = EffectiveRank(partitioner.mesh)
  neighbours = Neighbours(KNN(k=(3,)), 2, partitioner.mesh)
  mine = [Width(), neighbours, rank, Width()]
  method = Means(backbone=None)
  images = {"train": train, "test": test}
  results = Online(method, images, reader, mine).run(STATE)
  assert sorted(read) == [9, 20]
  assert set(results.pictures) == {"a"}
  names = {"width", "knn_3", "effective_rank", "bad_images"}
  assert set(results.scalars) == names and results.scalars["width"] == 3
  # Without a test set, the rank is of the first training images.
  alone = Online(method, {"train": train}, reader, [rank]).run(STATE)
  assert set(alone.scalars) == {"effective_rank", "bad_images"}


PROCESS = """
import pathlib, sys
import jax

root, process, port, max_bad = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from sslx.config import ConfigError
from tests.evaluate import online_test
evaluator = online_test.online(
  pathlib.Path(root), jax.devices(), max_bad=float(max_bad)
)
try:
  print("RESULT", evaluator.run(online_test.STATE).scalars["bad_images"])
except ConfigError as error:
  print("ERROR", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("max_bad", [0.1, 0.05])
def test_the_count_is_of_all_processes(tmp_path, max_bad):
  """Each has one bad image of the 20 test images: together more than 5 %."""
  write(tmp_path / "train", 20)
  write(tmp_path / "test", 20, bad=(0, 5))
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [
        sys.executable,
        "-c",
        PROCESS,
        tmp_path,
        str(i),
        str(port),
        str(max_bad),
      ],
      cwd=tiny.ROOT,
      env=tiny.environment(),
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=300)[0] for process in started]
  assert all(process.returncode == 0 for process in started)
  for output in outputs:
    assert output.count("the evaluation is without it") == 1
    if max_bad == 0.1:
      assert "RESULT 2" in output
    else:
      assert "ERROR 2 of 20 images cannot be decoded, such as" in output
