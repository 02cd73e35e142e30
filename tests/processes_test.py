"""Real processes: any order of devices, and restarts on others."""

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from sslx import experiment as experiment_lib
from sslx import metrics, train
from sslx.data.order import Order
from tests import processes, tiny
from tests.processes import Job

pytestmark = pytest.mark.slow

# Neither process has a run of the rows, as on a slice of TPUs.
SHUFFLED = (0, 4, 5, 1, 2, 6, 3, 7)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def start(folder, cache, job, devices=4):
  """Starts the processes of a job, each with so many devices."""
  folder.mkdir(parents=True)
  (folder / "job.json").write_text(json.dumps(dataclasses.asdict(job)))
  environment = tiny.environment(devices, cache)
  # As of the reference, in this process.
  environment["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
  return [
    subprocess.Popen(
      [sys.executable, "-m", "tests.processes", folder, str(i)],
      cwd=tiny.ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(job.processes)
  ]


def finish(started):
  """Waits for the processes of a job; leaves none behind."""
  try:
    outputs = [process.communicate(timeout=1200)[0] for process in started]
  finally:
    for process in started:
      process.kill()
      process.communicate()
  assert [process.returncode for process in started] == [0] * len(started), (
    "\n".join(outputs)
  )
  return outputs[0]


def port():
  return random.randint(20000, 40000)


@pytest.fixture(scope="module")
def two(tmp_path_factory, cache):
  """Three steps of every method, by two processes of four devices."""
  folder = tmp_path_factory.mktemp("two") / "job"
  finish(start(folder, cache, Job(port(), 2, SHUFFLED, "steps")))
  return folder


@pytest.mark.parametrize("method", processes.METHODS)
def test_two_processes_of_four_devices_are_one_of_eight(method, two, tmp_path):
  experiment = experiment_lib.build(processes.steps_config(method))
  target = experiment.abstract_state
  old_metrics, old_evaluated, old_pictures = processes.take_steps(
    method, jax.devices(), tmp_path
  )
  results = json.loads((two / "results.json").read_text())
  new_metrics, new_evaluated = results[method]
  tiny.assert_close(new_metrics[0], old_metrics[0], 1e-4)
  tiny.assert_close(new_metrics, old_metrics, 1e-3)

  def restored(folder):
    with contextlib.closing(processes.checkpoints(folder / method)) as opened:
      state, data = opened.restore(target)
    assert data == {"next_index": processes.STEPS}
    return jax.device_get(state)

  new, old = restored(two), restored(tmp_path)
  start = jax.device_get(experiment.init_state())
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), old, start)
  assert max(jax.tree.leaves(moved.params)) > 1e-4
  tiny.assert_close(new, old, 2e-3)
  if method in ("mocov2", "swav"):
    assert np.abs(old.aux["queue"] - start.aux["queue"]).max() > 0.1

  assert new_evaluated.keys() == old_evaluated.keys()
  assert "knn_5" in old_evaluated
  for key, value in old_evaluated.items():
    assert new_evaluated[key] == pytest.approx(value, rel=0.01, abs=0.02), key
  with np.load(two / f"{method}.npz") as new_pictures:
    assert set(new_pictures) == set(old_pictures)
    assert ("reconstructions" in old_pictures) == (method == "mae")
    for name, picture in old_pictures.items():
      np.testing.assert_allclose(
        new_pictures[name].astype(int), picture.astype(int), atol=2
      )


def labels_of(folder):
  """{step: label of each row of its batch} of what a job trained on."""
  found = {}
  for path in folder.glob("labels-*.jsonl"):
    for line in path.read_text().splitlines():
      step, row, labels = json.loads(line)
      found.setdefault(step, {})[row] = labels
  return {
    step: [x for row in sorted(parts) for x in parts[row]]
    for step, parts in found.items()
  }


def kill_after(started, workdir, step):
  """Kills all processes of a job, at whatever step comes after this one."""
  while all(process.poll() is None for process in started):
    if any(row["step"] >= step for row in metrics.read(workdir)):
      break
    time.sleep(0.02)
  else:
    pytest.fail("the job ended early")
  for process in started:
    process.send_signal(signal.SIGKILL)
  for process in started:
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_restarts_on_other_processes_devices_and_modes_are_one_run(
  cache, tmp_path
):
  """Two processes, then one, then two; killed in between."""
  straight = tmp_path / "straight"
  train.run(processes.train_config(), str(straight), devices=jax.devices())

  run = tmp_path / "run"
  jobs = (
    (Job(port(), 2, SHUFFLED, "train"), 4),
    (Job(port(), 1, (2, 0, 3, 1), "train", mode="pmap"), 4),
    (Job(port(), 2, (3, 0, 1, 2), "train"), 2),
  )
  firsts, trained = [], []
  for n, (job, devices) in enumerate(jobs):
    started = start(tmp_path / str(n), cache, job, devices)
    if n < 2:
      kill_after(started, run, 6 + 20 * n)
      output = ""
    else:
      output = finish(started)
    trained.append(labels_of(tmp_path / str(n)))
    firsts.append(min(trained[-1]))
  assert f"resumed from step {firsts[2] - 1}" in output
  assert 1 == firsts[0] < firsts[1] < firsts[2], firsts
  # Where a kill comes is chance; one of the two at least is within an epoch.
  assert any((first - 1) % 4 for first in firsts[1:]), firsts

  # What the final state was trained on: of each step, its last repetition.
  batches = trained[0] | trained[1] | trained[2]
  assert sorted(batches) == list(range(1, 49))
  for step, labels in batches.items():
    order = Order(tiny.IMAGES, tiny.BATCH, 12 * (tiny.IMAGES // tiny.BATCH), 0)
    np.testing.assert_array_equal(labels, order[step - 1])
  for epoch in range(12):
    seen = np.concatenate([batches[4 * epoch + i] for i in range(1, 5)])
    assert sorted(seen) == list(range(tiny.IMAGES))  # None skipped, none twice.

  rows, expected = metrics.read(run), metrics.read(straight)
  assert [r["step"] for r in rows] == [r["step"] for r in expected]
  for row, same in zip(rows, expected, strict=True):
    for key in ("loss", "grad_norm", "eval/knn_5", "bad_images"):
      assert (key in row) == (key in same)
      if key in row:
        assert row[key] == pytest.approx(same[key], rel=1e-3), key
    if row["step"] > firsts[2] and "loss" in row:
      waits = [row["data_wait/0"], row["data_wait/1"]]
      assert row["data_wait"] == max(waits)
