"""Boards that are services: their process, resume, and all that may fail."""

import json
import os
import sys
import time

import numpy as np
import pytest
from etils import epath

from sslx import boards, config, metrics, settings
from sslx.boards import service
from tests import tiny

# A library of a service, in a file: what it gets, it writes to the file `got`.
FAKE = """
import json, os, time

class Client:
  where = "a place"

  def __init__(self, name, config, id, known):
    self.id = id or "abc"
    self.put("open", name, config, id, known)
    {opening}

  def put(self, *what):
    with open({got!r}, "a") as file:
      file.write(json.dumps(what) + "\\n")

  def add_scalars(self, step, scalars):
    {adding}
    self.put(step, scalars)

  def add_picture(self, step, name, picture):
    self.put(step, name, picture.tolist())

  def close(self, ended):
    self.put("close", ended)
"""


class Fake:
  """A service of that library, in the place of a real one."""

  def __init__(self, folder, monkeypatch):
    self.got = folder / "got"
    self._folder, self._patch = folder, monkeypatch
    monkeypatch.setitem(
      boards.BOARDS, "fake", lambda start: boards._service("fake", start)
    )
    monkeypatch.setattr(service, "_PATIENCE", 20.0)
    self.write()

  def write(self, opening="", adding=""):
    # `child` runs with a package of boards that has one more module.
    text = FAKE.format(got=str(self.got), opening=opening, adding=adding)
    (self._folder / "fake.py").write_text(text)
    (self._folder / "sitecustomize.py").write_text(
      "import importlib.util, sys\n"
      "spec = importlib.util.spec_from_file_location("
      f"'sslx.boards.fake', {str(self._folder / 'fake.py')!r})\n"
      "module = importlib.util.module_from_spec(spec)\n"
      "spec.loader.exec_module(module)\n"
      "sys.modules['sslx.boards.fake'] = module\n"
    )
    self._patch.setenv("PYTHONPATH", str(self._folder))

  def rows(self):
    return [json.loads(line) for line in self.got.read_text().splitlines()]


@pytest.fixture
def fake(tmp_path, monkeypatch):
  (tmp_path / "library").mkdir()
  return Fake(tmp_path / "library", monkeypatch)


@pytest.fixture
def run(tmp_path):
  (tmp_path / "run").mkdir()
  (tmp_path / "run/config.json").write_text('{"model": {"a": 1}}')
  return epath.Path(tmp_path / "run")


def test_a_service_gets_all_and_goes_on_with_the_same_run(fake, run):
  picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
  notes = []
  writer = metrics.Writer(
    run, 0, resumed=False, boards=("fake",), note=notes.append
  )
  writer.write(1, {"loss": 0.5, "x+y": 1.0})
  writer.write_picture(2, "views", picture)
  writer.write(3, {"loss": float("nan")})
  writer.close()
  assert notes == ["fake: a place"]
  assert json.loads((run / "boards.json").read_text()) == {"fake": "abc"}
  assert not (run / "tensorboard").exists()
  config_ = {"model": {"a": 1}}
  opened, first, drawn, third, closed = fake.rows()
  assert opened == ["open", "run", config_, None, -1]
  assert first == [1, {"loss": 0.5, "x_y": 1.0}]
  assert drawn == [2, "views", picture.tolist()]
  assert third[0] == 3 and np.isnan(third[1]["loss"])
  assert closed == ["close", True]
  # From step 1 on; steps up to 3 have been written before.
  metrics.Writer(run, 1, boards=("fake",), note=notes.append).close()
  assert fake.rows()[5:] == [["open", "run", config_, "abc", 3], closed]


def test_the_first_error_of_a_service_is_said_once(fake, run):
  fake.write(adding="raise ConnectionError('no route\\nto host')")
  notes = []
  writer = metrics.Writer(run, 0, boards=("fake",), note=notes.append)
  writer.write(1, {"loss": 1.0})
  while len(notes) < 2:
    time.sleep(0.05)
  for step in range(2, 100):
    writer.write(step, {"loss": 1.0})
  writer.close()
  assert notes[1:] == [
    "fake: ConnectionError: no route. From here on nothing is sent there; the"
    " run goes on, and metrics.jsonl has all rows."
  ]
  assert len(metrics.read(run)) == 99


def test_a_service_that_hangs_holds_up_nothing(fake, run, monkeypatch):
  monkeypatch.setattr(service, "_PATIENCE", 0.5)
  fake.write(opening="time.sleep(1000)")
  notes = []
  writer = metrics.Writer(run, 0, boards=("fake",), note=notes.append)
  began = time.monotonic()
  big = {f"a_long_name_of_a_number_{i}": 1.0 for i in range(1000)}
  while not fake.got.exists():
    time.sleep(0.05)
  for step in range(100):  # Megabytes: more than a socket holds.
    writer.write(step, big)
  writer.close()
  assert time.monotonic() - began < 20
  assert notes[-1].startswith("fake has not taken everything yet: a process")
  child = writer._boards[0]
  child._process.kill()
  child._thread.join()


def test_a_killed_process_is_said(fake, run):
  notes = []
  writer = metrics.Writer(run, 0, boards=("fake",), note=notes.append)
  while not notes:
    time.sleep(0.05)
  writer._boards[0]._process.kill()
  writer._boards[0]._thread.join()
  writer.write(1, {"loss": 1.0})
  writer.close()
  assert notes[1].startswith("fake: its process ended. From here on")
  assert len(notes) == 2


def test_names_and_libraries_are_checked(monkeypatch, tmp_path):
  with pytest.raises(
    config.ConfigError, match="boards is .*'wandbb'.* some of"
  ):
    settings.check(tiny.config(runtime__boards=("wandbb",)))
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  monkeypatch.delitem(sys.modules, "wandb", raising=False)
  os.mkdir(tmp_path / "wandb")  # Its runs, which are no library.
  with pytest.raises(config.ConfigError, match=r"install 'sslx\[wandb\]'"):
    boards.check(["tensorboard", "wandb"])


def two_sessions(run, name):
  """Steps 0 to 5, and from step 3 again, to step 8."""
  for first, last in ((0, 5), (4, 8)):
    resumed = first > 0
    notes = []
    writer = metrics.Writer(
      run, max(first - 1, 0), resumed=resumed, boards=(name,), note=notes.append
    )
    for step in range(first, last + 1):
      writer.write(step, {"loss": step / 2, "nan": float("nan")})
    writer.write_picture(5, "views", np.zeros((8, 8, 3), np.uint8))
    while not notes:
      time.sleep(0.1)
    writer.close()
    assert len(notes) == 1, notes
  return json.loads((run / "boards.json").read_text())[name]


# A library's own use of what is deprecated is not ours to mend.
theirs = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """Where libraries keep their runs; they may take long to start and end."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(service, "_PATIENCE", 60.0)


@theirs
def test_mlflow_keeps_each_step_once(run, elsewhere, monkeypatch):
  mlflow = pytest.importorskip("mlflow")
  uri = f"sqlite:///{run.parent}/mlflow.db"
  monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
  id_ = two_sessions(run, "mlflow")
  client = mlflow.MlflowClient(uri)
  found = client.get_run(id_)
  assert found.info.status == "FINISHED"
  assert found.data.params == {"model.a": "1"}
  history = client.get_metric_history(id_, "loss")
  assert [(x.step, x.value) for x in history] == [(i, i / 2) for i in range(9)]
  files = [x.path for x in client.list_artifacts(id_, "pictures")]
  assert files == ["pictures/views-5.png"]


@theirs
def test_aim_keeps_each_step_once(run, elsewhere):
  aim = pytest.importorskip("aim")
  id_ = two_sessions(run, "aim")
  found = aim.Run(id_, repo=str(run.parent), system_tracking_interval=None)
  assert found["config"] == {"model": {"a": 1}}
  values = {
    metric.name: metric.data.view(("val", "step")).items_list()
    for metric in found.metrics()
  }
  found.close()
  steps = list(range(9))
  assert values["loss"] == (steps, [[i / 2 for i in steps]])


@theirs
def test_wandb_offline_keeps_each_step_once(run, elsewhere, monkeypatch):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  id_ = two_sessions(run, "wandb")
  first, second = sorted((run.parent / "wandb").glob(f"offline-run-*-{id_}"))
  (picture,) = first.glob("files/media/images/views_*.png")
  assert picture.read_bytes()
  steps = [steps_of(folder / f"run-{id_}.wandb") for folder in (first, second)]
  assert steps == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]


def steps_of(path):
  """The steps in a file of an offline run: a log of LevelDB's format."""
  from wandb.proto import wandb_internal_pb2

  data, place, parts, steps = path.read_bytes(), 7, b"", []
  while place + 7 <= len(data):
    left = 32768 - place % 32768
    if left < 7:  # A header is not cut.
      place += left
      continue
    size = int.from_bytes(data[place + 4 : place + 6], "little")
    kind = data[place + 6]  # whole, first, middle, last
    parts += data[place + 7 : place + 7 + size]
    place += 7 + size
    if kind in (1, 4):
      record = wandb_internal_pb2.Record.FromString(parts)
      parts = b""
      if record.HasField("history"):
        steps.append(record.history.step.num)
  return steps
