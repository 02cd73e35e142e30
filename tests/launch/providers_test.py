"""Jobs that really train, started as each provider starts them.

The launcher's own commands go to fake programs, which run sslx.main on this
machine with the environment that the provider gives.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from tests import tiny
from tests.launch import fake, jobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


def launch(script, *flags, args, environment):
  return subprocess.Popen(
    [tiny.ROOT / "launch" / f"{script}.sh", *flags, "--", *args],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@contextlib.contextmanager
def hosts_of_tpus(names, numbers, cache, **more):
  """Environments of hosts, each with its metadata server."""
  port, environments = str(jobs.port()), {}
  with contextlib.ExitStack() as stack:
    for name, number in zip(names, numbers, strict=True):
      attributes = {"tpu-env": f"TPU_WORKER_ID: '{number}'"} | more
      if more:
        attributes["agent-worker-number"] = str(number)
      environments[name] = jobs.environment(cache) | {
        "JAX_COORDINATOR_PORT": port,
        "GCE_METADATA_IP": stack.enter_context(jobs.metadata(attributes)),
      }
    yield environments


def preempt(folder, workdir, launcher):
  """Once three steps are done, ends the processes as their host's end does."""
  path = workdir / "metrics.jsonl"
  while not (path.exists() and '"step": 3,' in path.read_text()):
    if launcher.poll() is not None:
      return
    time.sleep(0.05)
  with fake.changed(folder) as told:
    told["life"]["states"] = ["SUSPENDED"]
  for pid in folder.glob("hosts/*/.sslx/runs/t/pid"):
    os.kill(int(pid.read_text()), signal.SIGTERM)


def end_hosts(folder):
  """Ends what a test that failed left on its hosts."""
  for run in folder.glob("hosts/*/.sslx/runs/t"):
    if not (run / "exit").exists():
      with contextlib.suppress(ProcessLookupError):
        os.kill(int((run / "pid").read_text()), signal.SIGKILL)


def test_a_pod_is_preempted_and_its_job_goes_on(cache, tmp_path):
  folder, workdir = tmp_path / "fake", tmp_path / "run"
  endpoints = {"worker-network-endpoints": "localhost,localhost"}
  names = ["t-0", "t-1"]
  # Eight steps, so that there is one to be preempted at.
  args = [*jobs.ARGS, "--config.schedule.epochs=2", f"--workdir={workdir}"]
  with contextlib.ExitStack() as stack:
    environments = stack.enter_context(
      hosts_of_tpus(names, (0, 1), cache, **endpoints)
    )
    for environment in environments.values():
      environment["JAX_FORCE_TPU_INIT"] = "1"
    lives = [{"states": ["PROVISIONING", "ACTIVE"]} for _ in range(2)]
    scenario = {"lives": lives, "environment": environments}
    environment = fake.install(folder, scenario)
    stack.callback(end_hosts, folder)
    launcher = launch(
      *("tpu_retry", "pod", "--name=t", "--zone=us-east5-b", "--spot"),
      *("--type=v5p-16", "--wait=0.1", "--poll=0.1"),
      args=args,
      environment=environment,
    )
    preemption = threading.Thread(
      target=preempt, args=(folder, workdir, launcher)
    )
    preemption.start()
    try:
      output, _ = launcher.communicate(timeout=900)
    finally:
      launcher.kill()
      preemption.join()
  assert launcher.returncode == 0, output
  assert "exit code 143" in output
  assert "the slice is lost: SUSPENDED" in output
  assert "resumed from step" in output
  assert "2 x 512" in output
  assert list(jobs.losses(workdir)) == list(range(1, 9))
  with fake.changed(folder) as told:
    assert (told["made"], told["lives"]) == ([], []), (
      "two were made, and deleted"
    )


def test_a_group_whose_names_are_not_in_the_order_of_its_numbers(
  cache, tmp_path
):
  folder = tmp_path / "fake"
  names = ["127.0.0.1", "127.0.0.2"]  # That are hosts of this machine.
  args = [*jobs.ARGS, f"--workdir={tmp_path / 'run'}"]
  where = [
    *("--name=t", "--project=p", "--zone=us-east5-b", "--topology=2x4"),
    "--machine=ct6e-standard-4t",
  ]
  with contextlib.ExitStack() as stack:
    environments = stack.enter_context(hosts_of_tpus(names, (1, 0), cache))
    life = {"states": ["\n".join(f"{name} RUNNING" for name in names)]}
    scenario = {"lives": [life], "environment": environments}
    environment = fake.install(folder, scenario)
    stack.callback(end_hosts, folder)
    output = ""
    for verb in ("create", "setup", "run", "status"):
      extra = ["--", *args] if verb == "run" else []
      done = subprocess.run(
        [tiny.ROOT / "launch" / "tpu_mig.sh", verb, *where, *extra],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
      )
      output += done.stdout
      assert done.returncode == 0, output + done.stderr
  assert "2 x 512" in output
  assert output.count("ended with exit code 0") == 2
  log = fake.log(folder)
  first = next(x for x in log if "ssh 127.0.0.1" in x and "worker.sh run" in x)
  assert (
    "--coordinator=127.0.0.2:8482 --num_processes=2 --process_id=1" in first
  )


def finish(processes):
  outputs = [process.communicate(timeout=900)[0] for process in processes]
  codes = [process.returncode for process in processes]
  assert not any(codes), "\n".join(outputs)
  return "\n".join(outputs)


# In an image `python` is the one with sslx.
def with_python(tmp_path):
  fake._write(tmp_path / "image" / "python", "")
  return {"PATH": f"{tmp_path}/image:{os.environ['PATH']}"}


# What GKE adds to pods with TPUs, and where the names of pods lead here.
def gke(worker, hosts):
  return {
    "JAX_FORCE_TPU_INIT": "1",
    "TPU_WORKER_ID": str(worker),
    "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * hosts),
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
  }


def test_a_jobset_of_two_slices(cache, tmp_path):
  environment = fake.install(tmp_path / "fake", {})
  launcher = launch(
    *("gke_jobset", "create", "--name=t", "--image=i", "--num=2"),
    *("--accelerator=tpu-v6e-slice", "--topology=2x2"),
    args=[*jobs.ARGS, f"--workdir={tmp_path / 'run'}"],
    environment=environment,
  )
  finish([launcher])
  manifest = yaml.safe_load((tmp_path / "fake" / "applied").read_text())
  (replicated,) = manifest["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  port = {"JAX_COORDINATOR_PORT": str(jobs.port())}
  environments = []
  for index in range(replicated["replicas"]):
    labels = {"metadata.labels['jobset.sigs.k8s.io/job-index']": str(index)}
    environments += [
      {
        e["name"]: e["value"]
        if "value" in e
        else labels[e["valueFrom"]["fieldRef"]["fieldPath"]]
        for e in container["env"]
      }
      | gke(worker, job["completions"])
      | port
      | with_python(tmp_path)
      for worker in range(job["completions"])
    ]
  assert len(environments) == 2
  output = finish(jobs.start(container["command"], environments, cache))
  assert "2 x 512" in output


def test_sky_with_two_nodes_of_a_gpu(cache, tmp_path):
  task = yaml.safe_load((tiny.ROOT / "launch" / "sky.yaml").read_text())
  activate = tmp_path / "sslx-env" / "bin" / "activate"
  activate.parent.mkdir(parents=True)
  activate.write_text(f"PATH={tmp_path}/image:$PATH PYTHON={sys.executable}\n")
  arguments = [*jobs.ARGS, f"--workdir={tmp_path / 'run'}"]
  environments = [
    task["envs"]
    | {
      "EXTRA": "cuda,gcs",
      "ARGS": " ".join(arguments),
      "HOME": str(tmp_path),
      "PYTHON": sys.executable,
      "SKYPILOT_NUM_NODES": "2",
      "SKYPILOT_NODE_RANK": str(i),
      "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2",
      "SKYPILOT_NUM_GPUS_PER_NODE": "1",
    }
    for i in range(2)
  ]
  output = finish(jobs.start(["bash", "-c", task["run"]], environments, cache))
  assert "2 x 512" in output
