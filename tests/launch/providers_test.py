"""Jobs that really train, started as each provider starts them.

The launcher's own commands go to fake programs, which run sslx.main on this
machine with the environment that the provider gives.
"""

import contextlib
import json
import os
import shlex
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
      settings = tiny.environment(1, cache)
      kept = {k: v for k, v in settings.items() if k.startswith(("JAX", "XLA"))}
      environments[name] = kept | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_PORT": port,
        "GCE_METADATA_IP": stack.enter_context(jobs.metadata(attributes)),
      }
    yield environments


def preempt(folder, workdir, state, launcher):
  """Once two steps are done, ends the processes as their host's end does."""
  path = workdir / "metrics.jsonl"
  while not (path.exists() and '"step": 2,' in path.read_text()):
    if launcher.poll() is not None:
      return
    time.sleep(0.05)
  with fake._scenario(folder) as told:
    told["life"]["states"] = [state]
  for pid in folder.glob("hosts/*/.sslx/runs/t/pid"):
    os.kill(int(pid.read_text()), signal.SIGTERM)


def retried(tmp_path, where, flags, life, lost, environments):
  """Runs a job by tpu_retry.sh, preempts it once, and checks the result."""
  folder, workdir = tmp_path / "fake", tmp_path / "run"
  lives = [json.loads(json.dumps(life)) for _ in range(2)]
  scenario = {"lives": lives, "environment": environments}
  environment = fake.install(folder, scenario)
  # Twelve steps, so that there is one to be preempted at.
  args = [*jobs.ARGS, "--config.schedule.epochs=3", f"--workdir={workdir}"]
  launcher = launch(
    *("tpu_retry", where, "--name=t", *flags, "--wait=0.1", "--poll=0.1"),
    args=args,
    environment=environment,
  )
  preemption = threading.Thread(
    target=preempt, args=(folder, workdir, lost, launcher)
  )
  preemption.start()
  output, _ = launcher.communicate(timeout=400)
  preemption.join()
  assert launcher.returncode == 0, output
  assert "the slice is lost" in output or "exit code 143" in output, output
  assert "resumed from step" in output
  assert "2 x 512" in output
  assert list(jobs.losses(workdir)) == list(range(1, 13))
  assert json.loads((folder / "scenario.json").read_text())["made"] == []


def test_a_pod_is_preempted_and_its_job_goes_on(cache, tmp_path):
  endpoints = {"worker-network-endpoints": "localhost,localhost"}
  names = ["t-0", "t-1"]
  with hosts_of_tpus(names, (0, 1), cache, **endpoints) as environments:
    for environment in environments.values():
      environment["JAX_FORCE_TPU_INIT"] = "1"
    retried(
      tmp_path,
      "pod",
      ["--zone=us-east5-b", "--type=v5p-16", "--spot"],
      {"states": ["PROVISIONING", "ACTIVE"]},
      "SUSPENDED",
      environments,
    )


def test_so_is_a_group_whose_names_are_not_in_the_order_of_numbers(
  cache, tmp_path
):
  names = ["127.0.0.1", "127.0.0.2"]  # That are hosts of this machine.
  with hosts_of_tpus(names, (1, 0), cache) as environments:
    retried(
      tmp_path,
      "mig",
      [
        *("--project=p", "--zone=us-east5-b", "--topology=2x4"),
        "--machine=ct6e-standard-4t",
      ],
      {
        "states": [
          f"{names[0]} STAGING",
          "\n".join(f"{n} RUNNING" for n in names),
        ]
      },
      "\n".join(f"{n} STOPPING" for n in names),
      environments,
    )
  log = fake.log(tmp_path / "fake")
  first = next(x for x in log if "ssh 127.0.0.1" in x and "worker.sh run" in x)
  assert (
    "--coordinator=127.0.0.2:8482 --num_processes=2 --process_id=1" in first
  )


def finish(processes):
  outputs = [process.communicate(timeout=300)[0] for process in processes]
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


def test_xpk_with_a_slice_of_two_hosts(cache, tmp_path):
  environment = fake.install(tmp_path / "fake", {})
  launcher = launch(
    *("gke_xpk", "create", "--name=t", "--cluster=c", "--image=i"),
    "--tpu=v6e-8",
    args=[*jobs.ARGS, f"--workdir={tmp_path / 'run'}"],
    environment=environment,
  )
  finish([launcher])
  (line,) = fake.log(tmp_path / "fake")
  command = line.partition(" --command=")[2]
  given = dict(
    word.removeprefix("--env=").split("=")
    for word in shlex.split(line.partition(" --command=")[0])
    if word.startswith("--env=")
  )
  port = {"JAX_COORDINATOR_PORT": str(jobs.port())}
  environments = [
    given | gke(i, 2) | port | with_python(tmp_path) for i in range(2)
  ]
  output = finish(jobs.start(["bash", "-c", command], environments, cache))
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
      "EXTRA": "cuda",
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
