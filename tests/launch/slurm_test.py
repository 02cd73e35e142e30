"""launch/slurm.sbatch on a real SLURM of this one machine."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests import tiny
from tests.launch import jobs

pytestmark = pytest.mark.slow

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")


def wait_for(condition, seconds=600):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, condition
    time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
  """Runs SLURM's commands; its daemons are of this test alone."""
  path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
  missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
  if missing:
    pytest.skip(f"SLURM is not installed: no {', '.join(missing)}")
  folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname()
  host = host.partition(".")[0]
  (folder / "munge.key").write_bytes(os.urandom(1024))
  (folder / "munge.key").chmod(0o600)
  for name in ("state", "spool"):
    (folder / name).mkdir()
  port, user = jobs.port(), getpass.getuser()
  (folder / "slurm.conf").write_text(
    f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port + 1}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=main Nodes={host} Default=YES
"""
  )
  environment = os.environ | {
    "PATH": path,
    "SLURM_CONF": str(folder / "slurm.conf"),
  }
  munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid")]
  munge += [f"--{name}-file={folder}/munge.{name}" for name in ("log", "seed")]
  daemons = [
    ["munged", "--foreground", "--force", f"--socket={folder}/munge.sock"]
    + munge,
    ["slurmctld", "-D"],
    ["slurmd", "-D"],
  ]

  def run(*command, **added):
    done = subprocess.run(
      command,
      cwd=folder,
      env=environment | added,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()

  with contextlib.ExitStack() as stack:
    log = stack.enter_context(open(folder / "daemons.log", "w"))
    for daemon in daemons:
      process = subprocess.Popen(
        daemon, env=environment, stdout=log, stderr=log
      )
      stack.callback(process.wait, 30)
      stack.callback(process.terminate)
      if daemon[0] == "munged":
        wait_for((folder / "munge.sock").exists)
    wait_for(
      lambda: (
        subprocess.run(
          ["sinfo", "-h", "-o", "%T"],
          env=environment,
          capture_output=True,
          text=True,
          check=False,
        ).stdout.strip()
        == "idle"
      )
    )
    run.folder = folder
    yield run


def submit(slurm, script, *arguments, **added):
  """Submits a job whose `python` is this shell script; returns its number."""
  folder = slurm.folder / f"python{len(list(slurm.folder.iterdir()))}"
  folder.mkdir()
  (folder / "python").write_text(f"#!/bin/bash\n{script}\n")
  (folder / "python").chmod(0o755)
  added["PATH"] = f"{folder}:{os.environ['PATH']}"
  return slurm(
    "sbatch",
    "--parsable",
    f"--chdir={tiny.ROOT}",
    f"--output={slurm.folder}/%j.log",
    # In place of eight GPUs.
    *("--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"),
    str(tiny.ROOT / "launch" / "slurm.sbatch"),
    *arguments,
    **added,
  )


def job(slurm, number):
  """What SLURM says of a job."""
  words = slurm("scontrol", "show", "job", number).split()
  return dict(word.split("=", 1) for word in words if "=" in word)


def is_queued_again(slurm, number):
  """Waits until it is, and lets it start soon, not after two minutes.

  SLURM waits for the node to forget the first start. A second start that comes
  earlier fails.
  """
  log = slurm.folder / f"{number}.log"
  wait_for(
    lambda: log.exists() and "requeued (restart 1 of 100)" in log.read_text()
  )
  wait_for(lambda: job(slurm, number)["JobState"] == "PENDING")
  steps = ["pgrep", "--full", rf"slurmstepd: \[{number}\."]
  wait_for(
    lambda: not subprocess.run(steps, check=False, capture_output=True).stdout
  )
  slurm("scontrol", "update", f"JobId={number}", "StartTime=now+10")


def ends_as(slurm, number):
  """Waits for the end of a job; its state, restarts and log."""
  over = ("COMPLETED", "FAILED", "CANCELLED")
  wait_for(lambda: job(slurm, number)["JobState"] in over)
  found = job(slurm, number)
  log = (slurm.folder / f"{number}.log").read_text()
  if found["JobState"] != "COMPLETED":
    log += (slurm.folder / "daemons.log").read_text()[-4000:]
  return found["JobState"], int(found["Restarts"]), log


def test_terminated_it_is_queued_again_and_goes_on(slurm, tmp_path):
  workdir, cache = tmp_path / "run", tmp_path / "cache"
  number = submit(
    slurm,
    f'exec {sys.executable} "$@"',
    *jobs.ARGS,
    "--config.schedule.epochs=2",
    f"--workdir={workdir}",
    **jobs.environment(cache),
  )
  metrics = workdir / "metrics.jsonl"
  wait_for(lambda: metrics.exists() and '"step": 3,' in metrics.read_text())
  slurm("scancel", "--signal=TERM", number)  # As --signal does, near the end.
  is_queued_again(slurm, number)
  state, restarts, text = ends_as(slurm, number)
  assert (state, restarts) == ("COMPLETED", 1), text
  assert "SIGTERM: saves, then ends" in text
  assert "resumed from step" in text
  assert "2 x 512" in text
  assert list(jobs.losses(workdir)) == list(range(1, 9))


def test_what_is_to_be_done_before_is_done_once_a_node(slurm):
  mark = slurm.folder / "before"
  number = submit(slurm, f"test -s '{mark}'", BEFORE=f"echo once >> '{mark}'")
  state, _, text = ends_as(slurm, number)
  assert state == "COMPLETED", text
  assert mark.read_text() == "once\n"


@pytest.mark.parametrize("code", [1, 2])
def test_an_error_of_the_users_is_not(slurm, code):
  number = submit(slurm, f"exit {code}")
  state, restarts, text = ends_as(slurm, number)
  assert (state, restarts) == ("FAILED", 0), text
  assert "requeued" not in text


def test_nor_what_was_restarted_too_often(slurm):
  number = submit(slurm, "exit 175", MAX_RESTARTS="0")
  state, restarts, text = ends_as(slurm, number)
  assert (state, restarts) == ("FAILED", 0), text


def test_nor_what_was_cancelled(slurm):
  ready = slurm.folder / "ready"
  number = submit(
    slurm, f"touch {ready}; trap 'exit 143' TERM; sleep 60 & wait"
  )
  wait_for(ready.exists)
  slurm("scancel", number)
  state, restarts, text = ends_as(slurm, number)
  assert (state, restarts) == ("CANCELLED", 0), text
  assert "requeued" not in text


def test_a_lost_process_is(slurm):
  mark = slurm.folder / "was here"
  number = submit(
    slurm,
    f"[ -e '{mark}' ] && exit 0; [ $SLURM_PROCID = 1 ] && kill -9 $$;"
    f" sleep 2; touch '{mark}'; exit 175",
  )
  is_queued_again(slurm, number)
  state, restarts, text = ends_as(slurm, number)
  assert (state, restarts) == ("COMPLETED", 1), text


def test_one_task_for_all_gpus_of_a_node_is_refused():
  done = subprocess.run(
    ["bash", tiny.ROOT / "launch" / "slurm.sbatch"],
    env=os.environ | {"SLURM_GPUS_ON_NODE": "8", "SLURM_NTASKS_PER_NODE": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert "Give sbatch --ntasks-per-node=8" in done.stderr
