"""Training on a folder of JPEGs by the command line: logs, kills, processes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sslx.data import crops
from tests import tiny
from tests.data import photos

pytestmark = pytest.mark.slow

DECODER = crops.decoder()
# More steps than batches are made ahead, so that a kill meets the workers.
COUNT, STEPS = 64, 40
RUN = [
  "--config=configs/simclr.py:imagenet",
  "--config.data.source=folder",
  "--config.data.batch_size=16",
  "--config.data.views.0.size=32",
  "--config.data.centre.size=32",
  "--config.data.centre.resize=36",
  "--config.data.max_bad=0.05",
  "--config.data.threads=2",
  "--config.model.backbone.depth=18",
  "--config.model.backbone.width=0.125",
  "--config.model.projector.dims=(16,8)",
  "--config.model.norm_groups=1",
  "--config.schedule.epochs=10",
  "--config.schedule.lr.warmup=0.0",
  "--config.runtime.log_every=1",
  "--config.runtime.checkpoint.every_epochs=0.5",
  "--config.runtime.evaluate.every_epochs=5",
  "--config.runtime.evaluate.batch_size=16",
  "--config.runtime.evaluate.knn.k=(5,)",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def write(folder, count, bad=()):
  folder.mkdir(parents=True)
  for i in range(count):
    height, width = 48 + i % 30, 80 - i % 25
    data = photos.jpeg(photos.photo(height, width, seed=i))
    data = data[: len(data) // 2] if i in bad else data
    (folder / f"{i:03}.jpg").write_bytes(data)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
  """Two classes of which one image is cut short, and a test set."""
  root = tmp_path_factory.mktemp("classes")
  write(root / "train/a", COUNT // 2, bad=[3])
  write(root / "train/b", COUNT // 2)
  write(root / "val/a", 10)
  write(root / "val/b", 10, bad=[1])
  return root


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
  root = tmp_path_factory.mktemp("flat") / "images"
  write(root, COUNT)
  return root


_started = []


@pytest.fixture(autouse=True)
def nothing_is_left():
  yield
  while _started:
    process = _started.pop()
    process.kill()
    process.communicate()


def start(data, workdir, cache, *arguments):
  process = subprocess.Popen(
    [
      sys.executable,
      "-m",
      "sslx.main",
      *RUN,
      f"--config.data.data_dir={data}",
      f"--workdir={workdir}",
      *arguments,
    ],
    cwd=tiny.ROOT,
    env=tiny.environment(cache=cache),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  _started.append(process)
  return process


def run(*arguments):
  process = start(*arguments)
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 0, output
  return output


def rows(workdir):
  """metrics.jsonl without the times, and the hash that workers are part of."""
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  parsed = [json.loads(line) for line in lines]
  for row in parsed:
    row.pop("images_per_second", None)
    row.pop("data_wait", None)
    assert row.pop("config")
  return parsed


def wait_for_step(process, workdir, step):
  path = pathlib.Path(workdir) / "metrics.jsonl"
  while process.poll() is None:
    if path.exists() and f'"step": {step},' in path.read_text():
      return
    time.sleep(0.02)
  pytest.fail("the run ended early:\n" + process.stdout.read())


def descendants(pid):
  """Every process that this one started, and those that they did."""
  parent_of = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      # The name, in brackets, may hold anything.
      fields = path.read_text().rpartition(")")[2].split()
    except OSError:
      continue  # It has ended since.
    if fields[0] != "Z":
      parent_of[int(path.parent.name)] = int(fields[1])
  found = {pid}
  while more := {p for p, up in parent_of.items() if up in found} - found:
    found |= more
  return found - {pid}


def alive(pids):
  """Those that still run; a zombie does not."""
  found = set()
  for pid in pids:
    try:
      stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
      continue
    if stat.rpartition(")")[2].split()[0] != "Z":
      found.add(pid)
  return found


def wait_for_end(pids, seconds=15):
  end = time.monotonic() + seconds
  while time.monotonic() < end and alive(pids):
    time.sleep(0.1)
  return alive(pids)


@pytest.fixture(scope="module")
def straight(classes, tmp_path_factory, cache):
  """A run without interruption."""
  workdir = tmp_path_factory.mktemp("straight") / "run"
  return workdir, run(classes, workdir, cache)


def test_a_folder_of_classes_trains_and_is_evaluated(straight, classes):
  workdir, output = straight
  assert f"on folder: {COUNT} images, JPEG decoder: {DECODER}" in output
  assert "kNN accuracy (k=5) after training" in output
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  trained = [row for row in found if "loss" in row]
  assert [row["step"] for row in trained] == list(range(1, STEPS + 1))
  assert all(np.isfinite(row["loss"]) for row in trained)
  # The first step is compilation.
  assert "data_wait" not in trained[0]
  assert all(0 <= row["data_wait"] <= 1 for row in trained[1:])
  # One image, once in each epoch.
  counts = np.array([row["bad_images"] for row in trained])
  np.testing.assert_array_equal(counts.reshape(10, 4).sum(axis=1), np.ones(10))
  bad = classes / "train/a/003.jpg"
  # Once by the evaluation, and once by the training.
  assert output.count(f"{bad} cannot be decoded") == output.count(str(bad)) == 2
  evaluated = [row for row in found if "eval/knn_5" in row]
  assert [row["step"] for row in evaluated] == [0, 20, 40]
  assert f"{classes / 'val/b/001.jpg'} cannot be decoded" in output
  # Of 20 test images one cannot be decoded: the shares are of 19.
  for row in evaluated:
    assert row["eval/bad_images"] == 2
    for key in ("eval/knn_5", "eval/probe_test_accuracy"):
      assert row[key] * 19 == pytest.approx(round(row[key] * 19), abs=1e-4)


def test_a_flat_folder_trains_without_labels(flat, tmp_path, cache):
  changes = ["--config.schedule.epochs=2", "--config.runtime.log_every=50"]
  output = run(flat, tmp_path / "run", cache, *changes)
  assert "no labels: neither kNN nor a linear probe is evaluated" in output
  assert "no kNN accuracy: the data has no labels" in output
  found = rows(tmp_path / "run")
  trained = [row for row in found if "loss" in row]
  # Of four steps an epoch, so at the end of each.
  assert [row["step"] for row in trained] == [4, 8]
  assert "step 4/8" in output and "step 8/8" in output
  assert all(row["bad_images"] == 0 for row in trained)
  evaluated = [row for row in found if "eval/effective_rank" in row]
  assert [row["step"] for row in evaluated] == [0, 8]
  assert not any(key.startswith("eval/knn") for row in found for key in row)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_the_same_and_leaves_no_process(
  straight, classes, tmp_path, cache, workers
):
  flag = f"--config.data.workers={workers}"
  process = start(classes, tmp_path, cache, flag)
  wait_for_step(process, tmp_path, 6)
  started = descendants(process.pid)
  assert len(started) >= workers
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  left = wait_for_end(started)
  for pid in left:  # They hold the pipe of the output.
    os.kill(pid, signal.SIGTERM)
  assert not left
  assert "resumed from step" in run(classes, tmp_path, cache, flag)
  assert rows(tmp_path) == rows(straight[0])


def test_worker_processes_end_with_the_run(straight, classes, tmp_path, cache):
  process = start(classes, tmp_path, cache, "--config.data.workers=2")
  wait_for_step(process, tmp_path, 3)
  started = descendants(process.pid)
  assert len(started) >= 2  # And what tracks their resources.
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 0, output
  assert not wait_for_end(started, seconds=2)
  assert rows(tmp_path) == rows(straight[0])


def test_too_many_bad_images_are_one_clear_error(flat, tmp_path, cache):
  data = tmp_path / "data"
  write(data, COUNT, bad=range(0, COUNT, 4))
  process = start(data, tmp_path / "run", cache, "--config.data.workers=1")
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 1
  assert "5 of 64 images cannot be decoded" in output
  assert "config.data.max_bad=0.05" in output
  assert "Traceback" not in output
