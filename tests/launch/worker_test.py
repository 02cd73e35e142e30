"""What happens on a host of a slice: set up once, run once, wait as often."""

import os
import signal
import subprocess
import tarfile
import time

import pytest

from tests import tiny
from tests.launch import fake


@pytest.fixture
def host(tmp_path):
  """Runs worker.sh on a host, as ssh does."""
  fake.install(tmp_path, {})
  home = tmp_path / "home"
  (home / "sslx").mkdir(parents=True)
  (home / "worker.sh").write_text(f"{tiny.ROOT / 'launch' / 'worker.sh'}")
  script = (tiny.ROOT / "launch" / "worker.sh").read_text()
  (home / "worker.sh").write_text(script)
  path = f"{tmp_path}/host:{tmp_path}/bin:{os.environ['PATH']}"
  environment = {"HOME": str(home), "FAKE": str(tmp_path), "PATH": path}

  def start(*arguments, **added):
    return subprocess.Popen(
      ["bash", "worker.sh", *arguments],
      cwd=home,
      env=environment | added,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )

  def run(*arguments, **added):
    process = start(*arguments, **added)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output

  run.start, run.home, run.folder = start, home, tmp_path
  return run


def wait_for(path):
  end = time.monotonic() + 30
  while not path.exists():
    assert time.monotonic() < end, path
    time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 1, 175, 143])
def test_a_run_ends_with_the_exit_code_of_its_command(host, code):
  found, output = host("run", "t", "sh", "-c", f"echo hello; exit {code}")
  assert (found, "hello" in output) == (code, True)
  assert f"ended with exit code {code}" in host("status", "t")[1]


def test_a_run_outlives_its_connection_and_is_not_started_twice(host):
  go, starts = host.home / "go", host.home / "starts"
  command = (
    f"echo x >> {starts}; while [ ! -e {go} ]; do sleep 0.1; done; echo end"
  )
  first = host.start("run", "t", "sh", "-c", command)
  wait_for(starts)
  os.killpg(first.pid, signal.SIGHUP)  # The connection is lost.
  first.communicate(timeout=60)
  assert first.returncode != 0
  assert "running, process" in host("status", "t")[1]
  second = host.start("run", "t", "sh", "-c", command)
  time.sleep(0.5)
  go.touch()
  output, _ = second.communicate(timeout=60)
  assert (second.returncode, "end" in output) == (0, True)
  assert starts.read_text() == "x\n"


def test_stop_terminates_and_waits(host):
  ready = host.home / "ready"
  command = f"trap 'sleep 1; echo saved; exit 143' TERM; touch {ready};"
  command += " while :; do sleep 0.1; done"
  process = host.start("run", "t", "bash", "-c", command)
  wait_for(ready)
  assert host("stop", "t")[0] == 0
  output, _ = process.communicate(timeout=60)
  assert (process.returncode, "saved" in output) == (143, True)
  assert host("stop", "t")[0] == 0, "nothing to stop"


@pytest.mark.parametrize(
  "message",
  [
    "open(/dev/vfio/0): Device or resource busy",
    "The TPU is already in use by process with pid 7",
  ],
)
def test_a_tpu_that_another_process_holds_is_worth_a_restart(host, message):
  command = f"echo '{message}'; exit 1"
  assert host("run", "t", "sh", "-c", command)[0] == 175


def test_a_run_has_the_log_of_the_last_one_too(host):
  host("run", "t", "echo", "first")
  assert "first" in host("logs", "t")[1]
  host("run", "t", "echo", "second")
  log = host("logs", "t")[1]
  assert "second" in log
  assert "first" not in log
  assert (host.home / ".sslx/runs/t/log.1").read_text() == "first\n"


def archive(host):
  """Some of our files, as the launcher would send them."""
  files = ["setup.cfg", "setup.py", "sslx/main.py", "sslx/data/_native.c"]
  with tarfile.open(host.home / "t.tar", "w") as tar:
    for name in files:
      tar.add(tiny.ROOT / name, name)


def test_set_up_twice_installs_once(host):
  archive(host)
  code, output = host("setup", "t.tar", "tpu,gcs")
  assert code == 0, output
  installed = [line for line in fake.log(host.folder) if "uv pip" in line]
  assert len(installed) == 1
  assert installed[0].endswith(f"--editable {host.home}/sslx[tpu,gcs]")
  assert (host.home / "sslx/sslx/main.py").exists()
  code, output = host("setup", "t.tar", "tpu,gcs")
  assert (code, "already installed" in output) == (0, True)
  host("setup", "t.tar", "cuda,gcs")  # Something else.
  assert sum("uv pip" in line for line in fake.log(host.folder)) == 2


def test_set_up_leaves_a_run_alone(host):
  archive(host)
  process = host.start("run", "t", "sleep", "60")
  wait_for(host.home / ".sslx/runs/t/pid")
  code, output = host("setup", "t.tar", "tpu,gcs")
  assert (code, "nothing is changed" in output) == (0, True)
  host("stop", "t")
  process.communicate()
  assert process.returncode == 143


def test_dry_run_changes_nothing(host):
  archive(host)
  code, output = host("setup", "t.tar", "tpu,gcs", DRY_RUN="1")
  assert code == 0, output
  assert "'--editable'" in output
  assert not (host.home / ".sslx").exists()


def test_the_number_of_a_host_is_the_metadata_servers(host):
  from tests.launch import jobs

  environment = "ACCELERATOR_TYPE: 'v6e-8'\nTPU_WORKER_ID: '3'\n"
  with jobs.metadata({"tpu-env": environment}) as address:
    found = host("number", GCE_METADATA_IP=address)
  assert found == (0, "3\n")
