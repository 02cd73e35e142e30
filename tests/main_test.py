"""The command line, as a user runs it: real processes, kills and bad input."""

import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from sslx import config as config_lib
from sslx import settings
from sslx.data.pipeline import iterator_state
from tests import tiny

pytestmark = pytest.mark.slow

# Twelve steps of three epochs.
RUN = [
  "--config=configs/simclr.py:quickstart",
  "--config.model.backbone.width=0.125",
  "--config.model.projector.dims=(16,8)",
  "--config.data.views.0.size=16",
  "--config.data.batch_size=1024",
  "--config.schedule.epochs=3",
  "--config.runtime.log_every=1",
  "--config.runtime.checkpoint.every_epochs=0.5",
  "--config.runtime.evaluate.every_epochs=1",
  "--config.runtime.evaluate.knn.k=(20,)",
  "--config.runtime.evaluate.pixels=False",
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def start(workdir, cache, *arguments, devices=1, prefix=()):
  return subprocess.Popen(
    [
      *prefix,
      sys.executable,
      "-m",
      "sslx.main",
      f"--workdir={workdir}",
      *arguments,
    ],
    cwd=tiny.ROOT,
    env=tiny.environment(devices, cache),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process):
  output, _ = process.communicate(timeout=600)
  return output


def run(workdir, cache, *arguments, **settings):
  process = start(workdir, cache, *arguments, **settings)
  output = finish(process)
  assert process.returncode == 0, output
  return output


def rows(workdir):
  """metrics.jsonl without the timings, which no two runs share."""
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  parsed = [json.loads(line) for line in lines]
  for row in parsed:
    row.pop("images_per_second", None)
    row.pop("data_wait", None)
  return parsed


def final_data(workdir):
  folder = pathlib.Path(workdir) / "checkpoints" / "12"
  return ocp.load_checkpointables(folder, {"data": None})["data"]


def final_state(workdir):
  folder = pathlib.Path(workdir) / "checkpoints" / "12"
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sharding info not provided")
    return ocp.load_checkpointables(folder)


def wait_for_step(process, workdir, step):
  path = pathlib.Path(workdir) / "metrics.jsonl"
  while process.poll() is None:
    if path.exists() and f'"step": {step},' in path.read_text():
      return
    time.sleep(0.02)
  pytest.fail("the run ended early:\n" + process.stdout.read())


def leaves(tree, path=""):
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from leaves(value, f"{path}/{key}")
  elif isinstance(tree, list | tuple):
    for i, value in enumerate(tree):
      yield from leaves(value, f"{path}/{i}")
  elif tree is not None:
    yield path, np.asarray(tree)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, cache):
  """A run without interruption."""
  workdir = tmp_path_factory.mktemp("straight") / "run"
  return workdir, run(workdir, cache, *RUN)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, cache):
  """The same, killed at an arbitrary moment."""
  workdir = tmp_path_factory.mktemp("killed") / "run"
  process = start(workdir, cache, *RUN)
  wait_for_step(process, workdir, random.randint(3, 9))
  time.sleep(random.random())
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  return workdir


def test_a_run_says_what_it_does_and_learns(straight):
  workdir, output = straight
  assert "epoch 3.0/3  step 12/12  loss" in output
  assert "images/s  ETA" in output
  assert "kNN accuracy (k=20) after training" in output
  found = rows(workdir)
  steps = [row["step"] for row in found if "loss" in row]
  assert steps == list(range(1, 13))
  evaluated = [row for row in found if "eval/knn_20" in row]
  assert [row["step"] for row in evaluated] == [0, 4, 8, 12]
  for name in ("effective_rank", "probe_test_accuracy"):
    assert all(f"eval/{name}" in row for row in evaluated), name
  assert all("feature_std" in row for row in found if "loss" in row)
  saved = settings.load(str(workdir / "config.json"))
  assert saved.schedule.epochs == 3
  name = config_lib.fingerprint(saved)
  assert {row["config"] for row in found} == {name}
  with ocp.training.Checkpointer(workdir / "checkpoints") as orbax:
    metadata = orbax.checkpointables_metadata(12).custom_metadata
  assert metadata["config"] == name
  assert metadata["decoder"] is None  # Of a set in memory.
  assert list((workdir / "tensorboard").glob("events.*"))


def test_killed_and_resumed_is_bitwise_the_same(
  straight, killed, cache, tmp_path
):
  workdir = tmp_path / "run"
  shutil.copytree(killed, workdir)
  assert "resumed from step" in run(workdir, cache, *RUN)
  assert rows(workdir) == rows(straight[0])
  new, old = final_state(workdir), final_state(straight[0])
  assert new["data"] == old["data"] == iterator_state(12)
  new, old = dict(leaves(new["state"])), dict(leaves(old["state"]))
  assert new.keys() == old.keys()
  for path, value in old.items():
    np.testing.assert_array_equal(new[path], value, err_msg=path)
  left = [p.name for p in (workdir / "checkpoints").iterdir()]
  assert all(name.isdigit() for name in left), left


def test_resumed_on_other_devices_and_mode_is_the_same_to_rounding(
  straight, killed, cache, tmp_path
):
  workdir = tmp_path / "run"
  shutil.copytree(killed, workdir)
  output = run(
    workdir, cache, *RUN, "--config.runtime.parallel.mode=pmap", devices=4
  )
  assert "config.runtime.parallel.mode: 'pjit' there, 'pmap' now" in output
  resumed = int(re.search(r"resumed from step (\d+)", output)[1])
  new, old = rows(workdir), rows(straight[0])
  assert [row["step"] for row in new] == [row["step"] for row in old]
  for a, b in zip(new, old, strict=True):
    if "loss" in b:
      # The first step has the same state; training amplifies its rounding.
      rtol = 1e-4 if b["step"] <= resumed + 1 else 3e-2
      np.testing.assert_allclose(a["loss"], b["loss"], rtol=rtol)
      np.testing.assert_allclose(a["lr"], b["lr"], rtol=1e-6)
  assert final_data(workdir) == iterator_state(12)


def test_two_processes_train_as_one(straight, cache, tmp_path):
  workdir, port = tmp_path / "run", random.randint(20000, 40000)
  processes = [
    start(
      workdir,
      cache,
      *RUN,
      "--distributed",
      f"--coordinator=localhost:{port}",
      "--num_processes=2",
      f"--process_id={i}",
      devices=2,
    )
    for i in range(2)
  ]
  outputs = [finish(process) for process in processes]
  assert [p.returncode for p in processes] == [0, 0], outputs
  for a, b in zip(rows(workdir)[:6], rows(straight[0])[:6], strict=True):
    assert a["step"] == b["step"]
    if "loss" in b:
      rtol = 1e-4 if b["step"] == 1 else 3e-2
      np.testing.assert_allclose(a["loss"], b["loss"], rtol=rtol)
  assert final_data(workdir) == iterator_state(12)


def test_sigterm_saves_and_resumes(straight, cache, tmp_path):
  process = start(tmp_path, cache, *RUN)
  wait_for_step(process, tmp_path, 5)
  process.send_signal(signal.SIGTERM)
  output = finish(process)
  assert process.returncode == 128 + signal.SIGTERM, output
  assert tiny.says_saved(output)
  run(tmp_path, cache, *RUN)
  assert rows(tmp_path) == rows(straight[0])


def test_a_queue_trains_evaluates_and_goes_on_after_sigterm(cache, tmp_path):
  of_simclr = ("projector.dims", "configs/simclr.py")
  arguments = [
    "--config=configs/mocov2.py:quickstart",
    *[x for x in RUN if not any(word in x for word in of_simclr)],
    "--config.model.queue_size=2048",
    "--config.schedule.epochs=2",
  ]
  process = start(tmp_path, cache, *arguments)
  wait_for_step(process, tmp_path, 3)
  process.send_signal(signal.SIGTERM)
  output = finish(process)
  assert process.returncode == 128 + signal.SIGTERM, output
  assert tiny.says_saved(output)
  assert "resumed from step" in run(tmp_path, cache, *arguments)
  found = rows(tmp_path)
  losses = {row["step"]: row["loss"] for row in found if "loss" in row}
  assert list(losses) == list(range(1, 9))
  assert all(np.isfinite(loss) for loss in losses.values())
  evaluated = [row["step"] for row in found if "eval/knn_20" in row]
  assert evaluated == [0, 4, 8]


def test_a_finished_run_has_nothing_left_to_do(straight, cache):
  before = rows(straight[0])
  assert "finished: 12 steps" in run(straight[0], cache, *RUN)
  assert rows(straight[0]) == before


def test_init_from_starts_with_the_weights_of_another_run(
  straight, cache, tmp_path
):
  output = run(
    tmp_path,
    cache,
    *RUN,
    f"--config.runtime.init_from={straight[0]}",
    "--config.schedule.epochs=2",
  )
  assert f"weights from {straight[0]}" in output
  first, last = rows(tmp_path)[0], rows(straight[0])[-1]
  assert first["step"] == 0
  assert first["eval/knn_20"] == last["eval/knn_20"]


def test_not_finite_stops_with_the_step_and_the_last_good_checkpoint(
  cache, tmp_path
):
  process = start(
    tmp_path,
    cache,
    *RUN,
    "--config.schedule.optimizer.lr=1e30",
    "--config.schedule.lr.warmup=2",
    "--config.runtime.checkpoint.every_epochs=0.25",
  )
  output = finish(process)
  assert process.returncode == 1
  assert "not finite at step 3" in output
  assert "Last good checkpoint: step 1" in output or (
    "Last good checkpoint: step 2" in output
  )
  assert "Traceback" not in output


def test_a_full_disk_stops_the_run_and_harms_no_checkpoint(cache, tmp_path):
  """A limit on file size stands in for the disk: a write fails the same way."""
  # In KiB: below a checkpoint's largest file, above the others of the run.
  limited = ("bash", "-c", 'ulimit -S -f 300; exec "$@"', "bash")
  process = start(tmp_path, cache, *RUN, prefix=limited)
  output = finish(process)
  assert process.returncode == 1, output
  assert "the checkpoint of step 2 could not be saved" in output
  assert "start the same command again" in output
  assert "Traceback" not in output
  run(tmp_path, cache, *RUN)  # With room again.
  assert final_data(tmp_path) == iterator_state(12)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      ["--config.schedule.epoch=3"],
      "config.schedule.epoch does not exist. Did you mean 'epochs'?",
    ),
    (["--config.schedule.epochs=many"], "'many' (str); it must be int"),
    (["--config.data.batch_size=1001"], "not divide evenly over 4 devices"),
    (["--config.data.batch_size=8192"], "only 4096 images"),
    (["--config.model.norm_groups=3"], "norm_groups is 3"),
    (["--config.model.method=simclear"], "it must be one of 'simclr'"),
    (["--config.model.backbone.depth=19"], "must be one of 18, 34, 50, 101"),
    (["--config.data.source=cifar10", "--config.data.data_dir=/no"], "/no"),
    (
      [
        "--config.runtime.parallel.mode=pmap",
        "--config.runtime.parallel.rules=fsdp",
      ],
      "need mode='pjit'",
    ),
    (["--config.runtime.init_from=/no/such/run"], "/no/such/run"),
    (
      ["--config.runtime.custom_imports=('no_such',)"],
      "'no_such', which cannot be imported: ModuleNotFoundError",
    ),
    (["--wrkdir=x"], "Did you mean: workdir"),
    (["--workdir="], "--workdir is empty; give a folder."),
    (["--workdir=hdfs://x/y"], "hdfs:// is not a store"),
    (["--workdir=README.md"], "README.md is a file"),
    (["extra"], "unexpected arguments ['extra']"),
  ],
)
def test_bad_input_is_one_clear_error(tmp_path, cache, arguments, message):
  process = start(tmp_path / "run", cache, *RUN, *arguments, devices=4)
  output = finish(process)
  assert process.returncode != 0
  assert message in output
  assert "Traceback" not in output


def test_so_is_what_is_found_while_jax_traces(tmp_path, cache):
  odd = "--config.data.views.0.size=30"
  process = start(tmp_path, cache, "--config=configs/mae.py:quickstart", odd)
  output = finish(process)
  assert process.returncode == 1
  assert output.strip().splitlines()[-1].startswith("error: config.model")
  assert "does not divide images of 30 x 30 pixels." in output


def test_a_workdir_of_another_config_says_what_differs(straight, cache):
  process = start(straight[0], cache, *RUN, "--config.model.temperature=0.3")
  output = finish(process)
  assert process.returncode == 1
  assert "config.model.temperature: 0.2 there, 0.3 now" in output
  assert "--overwrite" in output
  assert "Traceback" not in output


def test_overwrite_starts_anew(straight, cache, tmp_path):
  shutil.copytree(straight[0], tmp_path / "run")
  run(
    tmp_path / "run",
    cache,
    *RUN,
    "--config.schedule.epochs=2",
    "--overwrite",
  )
  assert rows(tmp_path / "run")[-1]["step"] == 8


def test_a_folder_with_foreign_checkpoints_is_refused(cache, tmp_path):
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  process = start(tmp_path, cache, *RUN)
  output = finish(process)
  assert process.returncode == 1
  assert "has checkpoints but no config.json" in output


def test_benchmark_train_prints_the_ratio(cache):
  result = subprocess.run(
    [
      sys.executable,
      "-m",
      "sslx.benchmark",
      "train",
      *RUN,
      "--config.schedule.epochs=4",
      "--steps=1",
      "--rounds=1",
    ],
    cwd=tiny.ROOT,
    env=tiny.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert "full loop / bare step: " in result.stdout
  assert "start to first step, cold: " in result.stdout
  assert "start to first step, with the compilation cache: " in result.stdout
