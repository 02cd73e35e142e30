"""Saves, restores, and what goes wrong with them."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.checkpoint import (
  Checkpoint,
  CheckpointError,
  Checkpoints,
  Weights,
  checksum,
)
from sslx.parallel import Parallel, Partitioner
from sslx.state import TrainState


def state(scale=1.0, width=8):
  params = {"backbone": {"kernel": scale * jnp.arange(64.0 * width)}}
  params["backbone"]["kernel"] = params["backbone"]["kernel"].reshape(64, width)
  return TrainState(
    step=jnp.int32(3),
    params=params,
    model_state={"mean": jnp.full(4, scale)},
    opt_state=({"trace": jnp.ones(3)}, None),
    aux={},
    probe=None,
    rng=jnp.array([1, 2], jnp.uint32),
  )


def abstract(value, devices=1, rules="replicated"):
  partitioner = Partitioner.create(
    Parallel(rules=rules), jax.devices()[:devices]
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    value,
    partitioner.state_shardings(value),
  )


@pytest.fixture
def open_in(tmp_path):
  """Opens the checkpoints of a folder, and closes them after the test."""
  opened = []

  def open_(folder=tmp_path / "checkpoints", **settings):
    opened.append(Checkpoints(folder, Checkpoint(**settings), 10))
    return opened[-1]

  yield open_
  for one in opened:
    one.close()


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
  ("devices", "rules"), [(1, "replicated"), (8, "replicated"), (8, "fsdp")]
)
def test_restores_bitwise_on_any_devices(open_in, devices, rules, monkeypatch):
  monkeypatch.setattr("sslx.parallel.FSDP_MIN_SIZE", 16)
  saved = state()
  checkpoints = open_in()
  checkpoints.save(3, saved, {"next_index": 7})
  checkpoints.wait()
  target = abstract(saved, devices, rules)
  loaded, data = open_in().restore(target)
  assert data == {"next_index": 7}
  assert_equal(loaded, saved)
  kernel = loaded.params["backbone"]["kernel"]
  assert kernel.sharding == target.params["backbone"]["kernel"].sharding
  assert kernel.sharding.is_fully_replicated == (rules == "replicated")


def test_nothing_to_restore(open_in):
  assert open_in().restore(abstract(state())) is None


def test_keeps_the_last_and_every_nth(open_in):
  checkpoints = open_in(keep_last=2, keep_every_epochs=1)
  for step in (5, 10, 15, 20, 25, 30):
    checkpoints.save(step, state(), {"next_index": step})
  checkpoints.wait()
  kept = {int(p.name) for p in pathlib.Path(checkpoints.directory).iterdir()}
  assert kept == {10, 20, 25, 30}


def test_a_failed_save_names_the_last_good_one(open_in, monkeypatch):
  checkpoints = open_in()
  checkpoints.save(1, state(), {"next_index": 1})
  checkpoints.wait()

  class Failing:
    def result(self):
      raise OSError(28, "No space left on device")

  monkeypatch.setattr(
    checkpoints._orbax,
    "save_checkpointables_async",
    lambda *a, **k: Failing(),
  )
  checkpoints.save(2, state(), {"next_index": 2})
  with pytest.raises(CheckpointError) as error:
    checkpoints.wait()
  assert "step 2 could not be saved" in str(error.value)
  assert "No space left on device" in str(error.value)
  assert "The last good checkpoint: step 1 in " in str(error.value)
  shutil.rmtree(checkpoints.directory)  # Then there is none, whatever was.
  assert checkpoints.good() == f"none in {checkpoints.directory}"


def test_a_checkpoint_of_another_model_says_what_differs(open_in):
  checkpoints = open_in()
  checkpoints.save(1, state(), {"next_index": 1})
  checkpoints.wait()
  with pytest.raises(CheckpointError, match="another model") as error:
    checkpoints.restore(abstract(state(width=16)))
  line = "params/backbone/kernel: (64, 8) there, (64, 16) in this config"
  assert line in str(error.value)


def _flip(file, rng):
  """Changes one bit of a file."""
  data = bytearray(file.read_bytes())
  data[rng.integers(len(data))] ^= 1 << rng.integers(8)
  file.write_bytes(data)


# Orbax leaves tasks of reads that failed behind.
@pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_no_changed_byte_is_loaded(open_in, tmp_path):
  checkpoints = open_in(tmp_path / "whole")
  checkpoints.save(1, state(), {"next_index": 1})
  checkpoints.wait()
  whole, rng = tmp_path / "whole", np.random.default_rng(0)
  files = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
  noticed = 0
  for i in range(60):
    folder = tmp_path / f"copy{i}"
    shutil.copytree(whole, folder)
    _flip(folder / files[i % len(files)], rng)
    try:
      loaded, data = open_in(folder).restore(abstract(state()))
    except CheckpointError:
      noticed += 1
    else:  # A byte that means nothing, such as a date.
      assert data == {"next_index": 1}
      assert_equal(loaded, state())
    shutil.rmtree(folder)
  assert noticed > 20


def test_changed_weights_are_named(open_in, monkeypatch):
  checkpoints = open_in()
  with monkeypatch.context() as patch:
    wrong = {**checksum.of(state()), "params/backbone/kernel": 1}
    patch.setattr(checksum, "of", lambda _: wrong)
    checkpoints.save(1, state(), {"next_index": 1})
    checkpoints.wait()
  with pytest.raises(CheckpointError, match="has changed since") as error:
    open_in().restore(abstract(state()))
  assert "1 of 5 arrays differ, such as params/backbone/k" in str(error.value)


def test_a_checkpoint_without_checksums_is_read(open_in, monkeypatch):
  checkpoints = open_in()
  monkeypatch.setattr(checksum, "of", lambda _: {})
  checkpoints.save(1, state(), {"next_index": 1})
  checkpoints.wait()
  assert_equal(open_in().restore(abstract(state()))[0], state())


def test_falls_back_when_told_to_and_keeps_the_damaged_one(open_in, tmp_path):
  checkpoints = open_in(keep_last=3)
  for step in (1, 2, 3):
    checkpoints.save(step, state(float(step)), {"next_index": step})
  checkpoints.wait()
  folder, rng = pathlib.Path(checkpoints.directory), np.random.default_rng(0)
  for step in (2, 3):
    for file in (folder / f"{step}/state").rglob("d/*"):
      _flip(file, rng)
  with pytest.raises(CheckpointError, match="fall_back=True"):
    open_in().restore(abstract(state()))
  notes, again = [], open_in(fall_back=True, keep_last=3)
  loaded, data = again.restore(abstract(state()), notes.append)
  assert data == {"next_index": 1}
  assert_equal(loaded, state(1.0))
  assert ["step 3" in notes[0], "step 2" in notes[1]] == [True, True]
  assert sorted(p.name for p in (tmp_path / "damaged").iterdir()) == ["2", "3"]
  again.save(2, state(5.0), {"next_index": 2})  # The place is free.
  again.wait()
  assert_equal(open_in().restore(abstract(state()))[0], state(5.0))


@pytest.mark.parametrize("harm", ["truncate", "remove", "rubbish"])
def test_a_corrupt_checkpoint_is_one_clear_error(open_in, harm):
  checkpoints = open_in()
  for step in (1, 2):
    checkpoints.save(step, state(), {"next_index": step})
  checkpoints.wait()
  newest = pathlib.Path(checkpoints.directory) / "2"
  if harm == "truncate":
    for file in (newest / "state").rglob("d/*"):
      file.write_bytes(file.read_bytes()[:10])
  elif harm == "remove":
    shutil.rmtree(newest / "state")
  else:
    shutil.rmtree(newest)
    newest.mkdir()
    (newest / "hello.txt").write_text("not a checkpoint")
  with pytest.raises(
    CheckpointError, match="step 2 .* cannot be read"
  ) as error:
    open_in().restore(abstract(state()))
  assert "fall_back=True" in str(error.value)
  shutil.rmtree(newest)
  assert open_in().restore(abstract(state()))[1] == {"next_index": 1}


def test_leftovers_of_a_killed_save_are_ignored(open_in):
  checkpoints = open_in()
  checkpoints.save(1, state(), {"next_index": 1})
  checkpoints.wait()
  folder = pathlib.Path(checkpoints.directory)
  left = folder / "2.orbax-checkpoint-tmp"
  shutil.copytree(folder / "1", left)
  again = open_in()
  assert again.restore(abstract(state()))[1] == {"next_index": 1}
  again.save(2, state(2.0), {"next_index": 2})
  again.wait()
  loaded, data = open_in().restore(abstract(state()))
  assert data == {"next_index": 2}
  assert_equal(loaded, state(2.0))


def test_weights_of_another_run(open_in, tmp_path):
  checkpoints = open_in(tmp_path / "run" / "checkpoints")
  for step in (2, 4):
    checkpoints.save(step, state(float(step)), {"next_index": step})
  checkpoints.wait()
  target = abstract(state(), 8)
  wanted = {"params": target.params, "model_state": target.model_state}
  with Weights(str(tmp_path / "run")) as weights:
    assert weights.step == 4
    assert weights.shapes["params/backbone/kernel"] == (64, 8)
    loaded = weights.load(wanted)
    assert_equal(loaded["params"], state(4.0).params)
    assert_equal(loaded["model_state"], state(4.0).model_state)
    kernel = loaded["params"]["backbone"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    other = abstract(state(width=4))
    with pytest.raises(CheckpointError, match=r"\(64, 8\) there, \(64, 4\)"):
      weights.load({"params": other.params})
  with Weights(str(tmp_path / "run"), step=2) as weights:
    loaded = weights.load({"params": target.params})
    assert_equal(loaded["params"], state(2.0).params)
  with pytest.raises(CheckpointError, match="no checkpoint of step 3; .* 2, 4"):
    Weights(str(tmp_path / "run"), step=3)
  with pytest.raises(CheckpointError, match="--workdir is .*no folder"):
    Weights(str(tmp_path / "none"), key="--workdir")


def test_a_relative_folder_will_do(open_in, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  checkpoints = open_in("run/checkpoints")
  checkpoints.save(1, state(2.0), {"next_index": 1})
  checkpoints.wait()
  assert open_in("run/checkpoints").latest() == 1
  target = abstract(state())
  with Weights("run") as weights:
    loaded = weights.load({"params": target.params})
  assert_equal(loaded["params"], state(2.0).params)
