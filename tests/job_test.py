"""Jobs in real processes: faults in one of them, signals, second runs."""

import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import psutil
import pytest
from orbax.checkpoint import v1 as ocp

from tests import tiny

pytestmark = pytest.mark.slow

# Four steps an epoch; a save each epoch, an evaluation every second one.
RUN = [
  "--config=configs/simclr.py:quickstart",
  "--config.runtime.custom_imports=('tests.faulty',)",
  "--config.data.source=faulty",
  "--config.model.backbone.width=0.125",
  "--config.model.projector.dims=(16,8)",
  "--config.data.views.0.size=16",
  "--config.data.centre.size=16",
  "--config.data.batch_size=16",
  "--config.schedule.lr.warmup=0",
  "--config.runtime.log_every=1",
  "--config.runtime.checkpoint.every_epochs=1",
  "--config.runtime.evaluate.every_epochs=2",
  "--config.runtime.evaluate.batch_size=16",
  "--config.runtime.evaluate.pixels=False",
]
LONG = "--config.schedule.epochs=1000"
SHORT = "--config.schedule.epochs=4"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start(cache, tmp_path):
  """Starts a process of a job; what is left of it is killed at the end."""
  started = []

  def start(*arguments, workdir=tmp_path / "run", prefix=(), **environment):
    # Compiled without optimisation: there is little to compute.
    env = tiny.environment(cache=cache) | environment
    env["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    process = subprocess.Popen(
      [
        *prefix,
        *(sys.executable, "-m", "sslx.main", *RUN),
        *(f"--workdir={workdir}", *arguments),
      ],
      cwd=tiny.ROOT,
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    started.append(process)
    return process

  yield start
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def start_two(start):
  """Starts the two processes of a job; `each` has arguments of one of them."""

  def start_two(*arguments, each=((), ()), **environment):
    port = free_port()
    return [
      start(
        "--distributed",
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        f"--process_id={i}",
        *arguments,
        *each[i],
        **environment,
      )
      for i in range(2)
    ]

  return start_two


def free_port():
  # Below the ephemeral ones, so that no connection takes it meanwhile.
  while True:
    port = random.randint(20000, 30000)
    with socket.socket() as test:
      if test.connect_ex(("localhost", port)):
        return port


def finish(process, timeout=300):
  output, _ = process.communicate(timeout=timeout)
  return output


def wait_for_step(process, workdir, step):
  path = pathlib.Path(workdir) / "metrics.jsonl"
  while process.poll() is None:
    if path.exists() and f'"step": {step},' in path.read_text():
      return
    time.sleep(0.02)
  pytest.fail("the run ended early:\n" + process.stdout.read())


def steps(workdir, key):
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  return [row["step"] for row in map(json.loads, lines) if key in row]


FAULTS = {
  # fault: exit codes of the two processes, and what the first to fail says.
  "error": ([1, 1], "error: the disk of this host is gone"),
  "bug": ([1, 1], "ZeroDivisionError: a bug"),
  "stall": ([175, 175], "nothing has moved for"),
  "kill": ([175, -signal.SIGKILL], "process 1 on .* is lost: it has said"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_process_ends_all(start_two, fault, tmp_path):
  codes, message = FAULTS[fault]
  processes = start_two(
    LONG,
    "--stall_timeout=20",
    "--heartbeat_timeout=10",
    FAULT=fault,
    FAULT_IN="1",
    FAULT_AFTER="24",
  )
  wait_for_step(processes[0], tmp_path / "run", 12)
  outputs = [finish(process, timeout=60) for process in processes]
  assert [process.returncode for process in processes] == codes, outputs
  assert len(re.findall(message, "".join(outputs))) == 1, outputs
  if fault in ("error", "bug"):
    assert "process 1 on " in outputs[0] and "failed first" in outputs[0]
  if fault == "stall":  # It says who is behind, and where all hang.
    assert "process 1 on" in "".join(outputs)
    assert "waiting for a batch" in "".join(outputs)
    assert "most recent call first" in "".join(outputs)
  if fault != "bug":
    assert "Traceback" not in "".join(outputs)


def test_the_loss_of_the_process_that_keeps_them_together_ends_the_other(
  start_two, tmp_path
):
  processes = start_two(LONG, FAULT="kill", FAULT_IN="0", FAULT_AFTER="24")
  wait_for_step(processes[1], tmp_path / "run", 12)
  outputs = [finish(process, timeout=60) for process in processes]
  # Ours, or JAX's own abort.
  assert processes[1].returncode in (175, -signal.SIGABRT), outputs


def test_processes_with_other_configs_are_refused(start_two):
  each = (), ("--config.schedule.optimizer.lr=0.5", "--config.data.threads=1")
  processes = start_two(LONG, each=each)
  outputs = [finish(process) for process in processes]
  assert [process.returncode for process in processes] == [1, 1]
  both = "".join(outputs)
  assert both.count("process 1: config.schedule.optimizer.lr is 0.5 there") == 1
  assert "config.data.threads" not in both  # It may differ.
  assert "Traceback" not in both


def test_processes_that_do_not_share_the_workdir_are_refused(
  start_two, tmp_path
):
  each = (), (f"--workdir={tmp_path / 'another'}",)
  processes = start_two(LONG, each=each)
  outputs = [finish(process) for process in processes]
  assert [process.returncode for process in processes] == [1, 1]
  both = "".join(outputs)
  assert both.count("process 1: it does not see the workdir") == 1
  assert "Traceback" not in both


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_saves_and_ends_all(
  start_two, tmp_path, signum
):
  workdir = tmp_path / "run"
  processes = start_two(LONG, JAX_ENABLE_PREEMPTION_SERVICE="false")
  wait_for_step(processes[0], workdir, 9)
  processes[1].send_signal(signum)
  outputs = [finish(process, timeout=60) for process in processes]
  assert [p.returncode for p in processes] == [128 + signum] * 2, outputs
  assert tiny.says_saved(outputs[0])
  saved = max(int(p.name) for p in (workdir / "checkpoints").iterdir())
  assert "Traceback" not in "".join(outputs)
  assert steps(workdir, "loss")[-1] == saved
  if signum == signal.SIGINT:
    return
  processes = start_two(LONG)  # In the same place, also after the evaluation.
  wait_for_step(processes[0], workdir, saved + 9)
  for process in processes:
    process.send_signal(signal.SIGTERM)
  outputs = [finish(process, timeout=60) for process in processes]
  assert f"resumed from step {saved}" in outputs[0]
  found = steps(workdir, "loss")
  assert found == list(range(1, len(found) + 1))
  evaluated = steps(workdir, "eval/effective_rank")
  assert evaluated == list(range(0, evaluated[-1] + 1, 8))


@pytest.mark.parametrize(
  "signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_signal_during_an_evaluation_ends_it_and_loses_nothing(
  start, tmp_path, signum
):
  workdir = tmp_path / "run"
  # The evaluation of step 8 hangs, after that of step 0.
  process = start(SHORT, FAULT="stall", FAULT_AT="evaluation", FAULT_AFTER="4")
  wait_for_step(process, workdir, 8)
  time.sleep(1)
  process.send_signal(signum)
  output = finish(process, timeout=30)
  assert process.returncode == 128 + signum, output
  assert "while evaluating; nothing is lost" in output
  assert "Traceback" not in output
  if signum != signal.SIGTERM:
    return
  assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == [
    "4",
    "8",
  ]
  process = start(SHORT)
  output = finish(process)
  assert process.returncode == 0, output
  assert steps(workdir, "loss") == list(range(1, 17))
  assert steps(workdir, "eval/effective_rank") == [0, 8, 16]


def test_a_signal_during_compilation_ends_it(start, tmp_path):
  empty = str(tmp_path / "cache")
  process = start(SHORT, JAX_COMPILATION_CACHE_DIR=empty)
  for line in process.stdout:
    if line.startswith("evaluation at step 0"):
      break
  process.send_signal(signal.SIGTERM)
  began = time.monotonic()
  output = finish(process, timeout=60)
  assert time.monotonic() - began < 30
  assert process.returncode == 128 + signal.SIGTERM, output
  assert steps(tmp_path / "run", "loss") == []


def test_a_second_signal_ends_at_once(start, tmp_path):
  process = start(LONG)
  # Nothing answers while it is stopped; then both have come.
  wait_for_step(process, tmp_path / "run", 2)
  process.send_signal(signal.SIGTERM)
  time.sleep(1.2)
  process.send_signal(signal.SIGTERM)
  finish(process, timeout=20)
  assert process.returncode == 128 + signal.SIGTERM


def test_a_run_under_nohup_goes_on_after_sighup(start, tmp_path):
  process = start(SHORT, prefix=("nohup",))
  wait_for_step(process, tmp_path / "run", 2)
  process.send_signal(signal.SIGHUP)
  output = finish(process)
  assert process.returncode == 0, output


def test_a_second_run_in_a_workdir_is_refused_and_harms_nothing(
  start, tmp_path
):
  first = start(LONG)
  wait_for_step(first, tmp_path / "run", 2)
  for overwrite in ((), ("--overwrite",)):
    second = start(LONG, *overwrite)
    output = finish(second)
    assert second.returncode == 1
    assert f"is in use by process {first.pid} on" in output
  first.send_signal(signal.SIGTERM)
  output = finish(first)
  assert tiny.says_saved(output)
  assert first.returncode == 143


def test_a_port_in_use_is_one_clear_error(start):
  with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    port = taken.getsockname()[1]
    process = start(
      "--distributed",
      f"--coordinator=localhost:{port}",
      "--num_processes=1",
      "--process_id=0",
    )
    output = finish(process)
  assert process.returncode == 1, output
  assert "cannot listen at" in output and "Address already in use" in output
  assert "Traceback" not in output


def test_a_coordinator_that_does_not_answer_is_one_clear_error(start):
  process = start(
    "--distributed",
    f"--coordinator=localhost:{free_port()}",
    "--num_processes=2",
    "--process_id=1",
    "--initialization_timeout=5",
  )
  output = finish(process, timeout=60)
  assert process.returncode == 175, output
  assert "process 1 of 2 joins at" in output
  assert "could not join the others" in output
  assert "Traceback" not in output


@pytest.mark.parametrize(
  "environment",
  [{}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}],
)
def test_distributed_where_nothing_is_detected_is_one_clear_error(
  start, environment
):
  process = start("--distributed", **environment)
  output = finish(process)
  assert process.returncode == 1, output
  assert "--distributed found no other processes" in output
  assert "--coordinator=HOST:PORT" in output
  assert "Traceback" not in output


DISK = """
ulimit -S -f 60  # KiB: TensorBoard's and the metrics' files grow beyond it.
exec "$@"
"""


def test_a_disk_that_is_full_between_checkpoints_ends_the_run(start, tmp_path):
  """A limit on file size stands in for the disk: a write fails the same way."""
  process = start(
    LONG,
    "--config.runtime.checkpoint.every_epochs=1000",
    "--config.runtime.evaluate.every_epochs=1000",
    prefix=("bash", "-c", DISK, "bash"),
  )
  output = finish(process)
  assert process.returncode == 1, output
  assert "cannot be written: File too large." in output
  assert "Last good checkpoint: none" in output
  assert "Traceback" not in output


def rows(workdir):
  """metrics.jsonl without the timings, which no two runs share."""
  lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
  timings = ("images_per_second", "data_wait")
  return [
    {k: v for k, v in json.loads(line).items() if k not in timings}
    for line in lines
  ]


def arrays(workdir, step):
  folder = pathlib.Path(workdir) / "checkpoints" / str(step)
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sharding info not provided")
    return jax.tree.leaves(ocp.load_checkpointables(folder)["state"])


def test_kills_at_any_moment_change_nothing(start, tmp_path):
  """SSLX_KILLS says how many; three take half a minute."""
  kills = int(os.environ.get("SSLX_KILLS", "3"))
  epochs = kills + 2
  total, random_ = 4 * epochs, random.Random(0)
  length = f"--config.schedule.epochs={epochs}"
  straight = start(length, workdir=tmp_path / "straight")
  assert finish(straight, timeout=1200) and straight.returncode == 0
  workdir = tmp_path / "run"
  killed = before_the_first_step = 0
  while killed < kills:
    process = start(length, "--config.data.workers=1", workdir=workdir)
    done = len(rows(workdir)) if (workdir / "metrics.jsonl").exists() else 0
    if random_.random() < 0.2:  # At some moment of the start.
      time.sleep(random_.uniform(0, 8))
      before_the_first_step += 1
    else:
      remaining = total - done
      target = done + random_.randint(1, max(1, 2 * remaining // (kills + 1)))
      end = time.monotonic() + 120
      while process.poll() is None and time.monotonic() < end:
        path = workdir / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") > target:
          break
        time.sleep(0.001)
      time.sleep(random_.uniform(0, 0.1))
    children = []
    if process.poll() is None:
      children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    if process.returncode == 0:
      break  # It was faster than the kill.
    assert process.returncode == -signal.SIGKILL
    killed += 1
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, f"orphans: {alive}"
  process = start(length, "--config.data.workers=1", workdir=workdir)
  output = finish(process, timeout=1200)
  assert process.returncode == 0, output
  print(f"{killed} kills, {before_the_first_step} of them at the start")
  expected = rows(tmp_path / "straight")
  for row in expected + (found := rows(workdir)):
    row.pop("config")  # `workers` is part of the hash.
  assert found == expected
  pairs = zip(
    arrays(workdir, total), arrays(tmp_path / "straight", total), strict=True
  )
  for a, b in pairs:
    np.testing.assert_array_equal(a, b)
  left = [p.name for p in (workdir / "checkpoints").iterdir()]
  assert all(name.isdigit() for name in left), left
