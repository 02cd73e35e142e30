"""Jobs under launch/local.sh: killed, terminated, and gone on with."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import tiny
from tests.launch import jobs

pytestmark = pytest.mark.slow

# Eight steps, so that there is a step to be killed at.
ARGS = [*jobs.ARGS, "--config.schedule.epochs=2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def start(workdir, cache, *flags, more=()):
  environment = os.environ | jobs.environment(cache)
  environment["PYTHON"] = sys.executable
  return subprocess.Popen(
    [
      tiny.ROOT / "launch" / "local.sh",
      *flags,
      *("--", *ARGS, f"--workdir={workdir}", *more),
    ],
    cwd=tiny.ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def end(launcher):
  output, _ = launcher.communicate(timeout=900)
  return launcher.returncode, output


def wait_for_step(launcher, workdir, step):
  path = pathlib.Path(workdir) / "metrics.jsonl"
  while not (path.exists() and f'"step": {step},' in path.read_text()):
    assert launcher.poll() is None, launcher.stdout.read()
    time.sleep(0.05)


def children(launcher):
  path = f"/proc/{launcher.pid}/task/{launcher.pid}/children"
  return [int(pid) for pid in pathlib.Path(path).read_text().split()]


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_killed_and_terminated_on_1_2_and_4_processes_it_is_one_run(
  cache, tmp_path
):
  straight, workdir = tmp_path / "straight", tmp_path / "run"
  code, output = end(start(straight, cache, "--processes=1"))
  assert code == 0, output

  watchful = ["--heartbeat_timeout=10"]
  launcher = start(workdir, cache, "--processes=2", more=watchful)
  wait_for_step(launcher, workdir, 3)
  began = time.monotonic()
  os.kill(children(launcher)[1], signal.SIGKILL)
  code, output = end(launcher)
  assert code == 175, output
  assert time.monotonic() - began < 60, "it ends by itself, and soon"

  launcher = start(workdir, cache, "--processes=4")
  wait_for_step(launcher, workdir, 4)
  launcher.send_signal(signal.SIGTERM)
  code, output = end(launcher)
  assert code == 143, output
  assert "resumed from step 2" in output
  assert "SIGTERM: saves, then ends" in output

  launcher = start(workdir, cache, "--processes=1")
  wait_for_step(launcher, workdir, 6)
  launcher.send_signal(signal.SIGTERM)
  code, output = end(launcher)
  assert code == 143, output
  assert "resumed from step" in output

  code, output = end(start(workdir, cache, "--processes=2", "--devices=2"))
  assert code == 0, output
  assert "resumed from step" in output
  assert "4 x 256" in output
  found, expected = jobs.losses(workdir), jobs.losses(straight)
  assert list(found) == list(expected) == list(range(1, 9))
  for step, loss in expected.items():
    # The first step has the same state; training amplifies its rounding.
    rtol = 1e-4 if step == 1 else 3e-2
    np.testing.assert_allclose(found[step], loss, rtol=rtol)


def test_an_error_of_the_users_ends_all_with_it(cache, tmp_path):
  launcher = start(tmp_path, cache, more=["--config.model.methud=x"])
  code, output = end(launcher)
  assert code == 1, output
  assert "error: config.model.methud does not exist" in output  # Of the first.
