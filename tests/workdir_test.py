"""Whose a workdir is, and what may be deleted in it."""

import json
import os
import subprocess
import sys
import time

import pytest
from etils import epath

from sslx import config as config_lib
from sslx import lock as lock_lib
from sslx import workdir
from sslx.config import ConfigError
from sslx.errors import RunError, StorageError, WorkdirError
from sslx.lock import Lock
from tests import fake_store, tiny


def claim(folder, overwrite=False, **changes):
  """Claims it, lets it go, and returns what was noted."""
  notes = []
  workdir.claim(
    epath.Path(folder), tiny.config(**changes), overwrite, notes.append
  ).release()
  return "\n".join(notes)


def test_a_new_workdir_gets_the_resolved_config(tmp_path):
  claim(tmp_path / "a" / "b")
  saved = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
  assert saved == json.loads(config_lib.to_json(tiny.config()))


@pytest.mark.parametrize(
  "changes",
  [
    {"runtime__parallel__mode": "pmap"},
    {"runtime__log_every": 7},
    {"runtime__checkpoint__keep_last": 5},
    {"runtime__evaluate__every_epochs": 2.0},
    {"data__data_dir": "/elsewhere"},
    {"schedule__accumulate": 2},
  ],
)
def test_what_does_not_change_the_result_may_differ(tmp_path, changes):
  assert claim(tmp_path) == ""
  (key,) = changes
  assert f"config.{key.replace('__', '.')}: " in claim(tmp_path, **changes)


def test_keys_that_one_of_two_configs_leaves_to_their_defaults(tmp_path):
  """As those of an older version do, and those that are made in Python."""
  saved = tmp_path / "config.json"
  assert claim(tmp_path) == ""
  whole = json.loads(saved.read_text())
  older = json.loads(saved.read_text())
  del older["runtime"]["checkpoint"]["fall_back"]
  del older["data"]["views"][0]["blur_kernel"]
  saved.write_text(json.dumps(older))
  assert claim(tmp_path) == ""
  assert json.loads(saved.read_text()) == whole
  config = tiny.config().unlock()
  del config.data.threads
  workdir.claim(epath.Path(tmp_path), config, False, pytest.fail).release()


@pytest.mark.parametrize(
  "changes",
  [
    {"runtime__seed": 1},
    {"runtime__evaluate__probe__lr": 0.5},
    {"model__temperature": 0.7},
    {"data__batch_size": 32},
    {"data__views__0__size": 8},
    {"schedule__epochs": 2},
  ],
)
def test_what_changes_the_result_is_refused_unless_overwritten(
  tmp_path, changes
):
  claim(tmp_path)
  (tmp_path / "checkpoints").mkdir()
  (key,) = changes
  with pytest.raises(ConfigError, match="holds a run with another") as error:
    claim(tmp_path, **changes)
  assert f"config.{key.replace('__', '.')}: " in str(error.value)
  assert "--overwrite" in str(error.value)
  claim(tmp_path, overwrite=True, **changes)
  assert not (tmp_path / "checkpoints").exists()
  assert claim(tmp_path, **changes) == ""


def test_overwrite_deletes_all_of_a_run_and_nothing_else(tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  claim(tmp_path)
  for name in (
    "checkpoints/12",
    "checkpoints/13.orbax-checkpoint-tmp-5",
    "damaged/8",
  ):
    (tmp_path / name).mkdir(parents=True)
  for name in (
    "metrics.jsonl",
    "boards.json",
    "tensorboard/events.out.tfevents.1.host",
    "pictures/reconstructions-12.png",
    "reconstructions/12.png",
  ):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
  claim(tmp_path, overwrite=True)
  left = sorted(path.name for path in tmp_path.iterdir())
  # Older versions wrote MAE's pictures to a folder of their own: that stays.
  kept = ["reconstructions", "run.lock", "thesis.tex"]
  assert left == ["config.json", *kept]


# A Hugging Face model, a folder of somebody's own, and the like.
FOREIGN = {
  "model": {"config.json": '{"model_type": "vit"}', "checkpoints/best.pt": ""},
  "no config": {"checkpoints/5/x": "", "tensorboard/events.out.tfevents.1": ""},
  "damaged config": {"config.json": "{", "checkpoints/5/x": ""},
  "own notes": {"config.json": None, "checkpoints/notes.txt": "mine"},
  "own events": {"config.json": None, "tensorboard/mine.txt": ""},
  "own pictures": {"config.json": None, "pictures/cat.png": ""},
  "a file": {"config.json": None, "checkpoints": "mine"},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_overwrite_deletes_nothing_that_is_not_surely_a_run(tmp_path, kind):
  for name, text in FOREIGN[kind].items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    text = config_lib.to_json(tiny.config()) if text is None else text
    (tmp_path / name).write_text(text)
  before = {p: p.is_file() and p.read_text() for p in tmp_path.rglob("*")}
  for _ in range(2):  # The first try leaves no mark that the second goes by.
    with pytest.raises(WorkdirError, match="Nothing was deleted") as error:
      claim(tmp_path, overwrite=True)
    after = {p: p.is_file() and p.read_text() for p in tmp_path.rglob("*")}
    assert after == before
  top = sorted({name.partition("/")[0] for name in FOREIGN[kind]})
  assert ", ".join(top) in str(error.value)


def test_a_damaged_config_of_a_run_can_be_overwritten(tmp_path):
  claim(tmp_path)
  (tmp_path / "config.json").write_bytes(b"\xff\xfe{")
  with pytest.raises(WorkdirError, match=r"config\.json is damaged"):
    claim(tmp_path)
  claim(tmp_path, overwrite=True)
  assert claim(tmp_path) == ""


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "is damaged"),
    (b"{", "is damaged"),
    (b"\xff\xff", "is damaged"),
    (b"[" * 100_000, "is damaged"),
    (b"[]", "is not the config of a run"),
    (b"3", "is not the config of a run"),
    (b'{"model_type": "vit"}', r"is not the config of a run \(model_type\)"),
    (
      b'{"model": 1, "data": {}, "schedule": {}, "runtime": {}}',
      "is not the config of a run",
    ),
  ],
)
def test_a_config_that_is_none_is_one_clear_error(tmp_path, content, message):
  (tmp_path / "config.json").write_bytes(content)
  with pytest.raises(WorkdirError, match=message):
    claim(tmp_path)
  assert (tmp_path / "config.json").read_bytes() == content


def test_checkpoints_without_a_config_are_refused(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(WorkdirError, match=r"no config\.json"):
    claim(tmp_path)
  with pytest.raises(WorkdirError, match=r"no config\.json"):
    claim(tmp_path, overwrite=True)


@pytest.mark.parametrize(
  "name",
  ["checkpoints", "tensorboard", "config.json", "metrics.jsonl", "run.lock"],
)
def test_links_are_neither_followed_nor_written_through(tmp_path, name):
  elsewhere = tmp_path / "elsewhere"
  if "." in name:
    elsewhere.write_text("precious")
  else:
    elsewhere.mkdir()
    (elsewhere / "5").write_text("precious")
  run = tmp_path / "run"
  run.mkdir()
  (run / name).symlink_to(elsewhere)
  for overwrite in (False, True):
    with pytest.raises(WorkdirError, match=f"symbolic links named {name}"):
      claim(run, overwrite=overwrite)
  kept = elsewhere if elsewhere.is_file() else elsewhere / "5"
  assert kept.read_text() == "precious"


def test_a_workdir_that_is_deleted_under_a_run_is_noticed(tmp_path):
  run = epath.Path(tmp_path / "run")
  lock = workdir.claim(run, tiny.config(), False, print)
  lock.check()
  run.rmtree()
  with pytest.raises(WorkdirError, match="deleted or moved"):
    lock.check()
  lock.release()


def test_a_workdir_may_itself_be_a_link(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "latest").symlink_to(tmp_path / "run")
  claim(tmp_path / "latest")
  assert (tmp_path / "run" / "config.json").exists()


def test_a_workdir_that_is_a_file_is_one_clear_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(StorageError, match="is a file"):
    claim(tmp_path / "file")
  with pytest.raises(StorageError, match="cannot be made: Not a directory"):
    claim(tmp_path / "file" / "below")


HOLD = """
import sys, time
from etils import epath
from sslx.lock import Lock
lock = Lock(epath.Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds the lock of `tmp_path`."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLD, tmp_path / workdir.LOCK],
    cwd=tiny.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.wait()
  process.stdout.close()


def test_a_second_run_is_refused_and_a_dead_one_does_not_count(
  tmp_path, holder
):
  for overwrite in (False, True):
    began = time.monotonic()
    with pytest.raises(WorkdirError) as error:
      claim(tmp_path, overwrite=overwrite)
    assert time.monotonic() - began < 1
    assert f"in use by process {holder.pid} on " in str(error.value)
  assert not (tmp_path / "config.json").exists()
  holder.kill()
  holder.wait()
  claim(tmp_path)


@pytest.fixture
def store(tmp_path, monkeypatch):
  monkeypatch.setattr(lock_lib, "WATCH", 1.0)
  with fake_store.at(tmp_path / "store"):
    yield epath.Path("gs://bucket/run")


def test_a_workdir_may_be_in_a_store(store, tmp_path):
  assert claim(store) == ""
  there = tmp_path / "store" / "bucket" / "run"
  assert (there / "config.json").exists()
  assert not (there / "run.lock").exists()  # A lease ends by being deleted.
  with pytest.raises(ConfigError, match="another config"):
    claim(store, runtime__seed=3)
  assert claim(store) == ""


def test_a_lease_that_is_renewed_is_respected(store):
  store.mkdir(parents=True)
  first = Lock(store / workdir.LOCK, print)
  file, sleep = store / workdir.LOCK, time.sleep

  def renew_meanwhile(seconds):
    first.renew()
    sleep(seconds)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(lock_lib.time, "sleep", renew_meanwhile)
    notes = []
    with pytest.raises(WorkdirError, match=f"in use by process {os.getpid()}"):
      Lock(file, notes.append)
  assert "Watching for 1 s" in notes[0]
  first.release()
  Lock(file, print).release()


def test_a_lease_that_is_not_renewed_is_taken_over_and_its_holder_told(store):
  store.mkdir(parents=True)
  first, notes = Lock(store / workdir.LOCK, print), []
  second = Lock(store / workdir.LOCK, notes.append)
  assert "assumed dead" in notes[-1]
  with pytest.raises(WorkdirError, match="has taken"):
    first.renew()
  first.release()  # Not the second's.
  second.renew()


def test_a_file_system_without_flock_has_a_lease(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(lock_lib.errno.ENOLCK, "No locks available")

  monkeypatch.setattr(lock_lib.fcntl, "flock", flock)
  monkeypatch.setattr(lock_lib, "WATCH", 0.5)
  path, notes = epath.Path(tmp_path / "run.lock"), []
  first = Lock(path, print)
  Lock(path, notes.append)
  assert "assumed dead" in notes[-1]
  with pytest.raises(WorkdirError, match="has taken"):
    first.renew()


def test_every_error_of_a_run_is_shown_without_a_traceback():
  for error in (StorageError, WorkdirError):
    assert issubclass(error, RunError) and error.exit_code == 1
