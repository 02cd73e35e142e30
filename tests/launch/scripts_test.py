"""Scripts and files of launch/, read by the tools made for them."""

import json
import re
import shutil
import string
import subprocess
import sys
import sysconfig

import pytest
import yaml

from sslx.launch import gke
from tests import tiny

FOLDER = tiny.ROOT / "launch"
SCRIPTS = [
  *sorted(FOLDER.glob("*.sh")),
  FOLDER / "slurm.sbatch",
  *sorted((tiny.ROOT / "configs/benchmarks").glob("*.sh")),
]


def tool(name):
  """The path of a program, also where the environment is not on PATH."""
  found = shutil.which(name) or shutil.which(
    name, path=sysconfig.get_path("scripts")
  )
  if found is None:
    pytest.skip(f"{name} is not installed")
  return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(path):
  done = subprocess.run(
    [tool("shellcheck"), path], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stdout


def test_hadolint():
  done = subprocess.run(
    [tool("hadolint"), FOLDER / "Dockerfile"],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout


def test_the_dockerfile_copies_what_is_there():
  text = (FOLDER / "Dockerfile").read_text()
  targets = re.findall(r"^FROM \S+ AS (\w+)", text, re.M)
  assert targets == ["base", "tpu", "cuda"]
  for line in re.findall(r"^COPY (.*)", text, re.M):
    for source in line.split()[:-1]:
      assert (tiny.ROOT / source).exists(), line
  extras = re.findall(r"\.\[([\w,]+)\]", text)
  assert extras == ["tpu,gcs", "cuda,gcs,s3"]
  setup = (tiny.ROOT / "setup.cfg").read_text()
  assert all(f"\n{extra} =\n" in setup for extra in ",".join(extras).split(","))


def test_launchers_need_the_standard_library_only():
  """They run where jax is not installed."""
  done = subprocess.run(
    [sys.executable, "-S", "-m", "sslx.launch", "--help"],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def jobset(**changes):
  args = ["--config=configs/mae.py", '--config.a="b: c"']
  settings = {
    "name": "mae",
    "image": "gcr.io/p/sslx",
    "accelerator": "tpu-v6e-slice",
    "topology": "4x4",
  }
  command, text = gke.JobSet(**settings | changes).create(args)
  assert command == ["kubectl", "apply", "--filename=-"]
  return yaml.safe_load(text), args


@pytest.mark.parametrize(
  ("accelerator", "topology", "slices", "hosts", "chips"),
  [
    ("tpu-v6e-slice", "4x4", 1, 4, 4),
    ("tpu-v5p-slice", "2x2x2", 2, 2, 4),
    ("tpu-v5-lite-podslice", "2x2", 1, 1, 4),
    ("tpu-v6e-slice", "1x1", 1, 1, 1),
    ("tpu7x", "2x2x4", 3, 4, 4),
  ],
)
def test_a_jobset_has_a_pod_for_each_host(
  accelerator, topology, slices, hosts, chips
):
  manifest, args = jobset(
    accelerator=accelerator, topology=topology, num=slices
  )
  (replicated,) = manifest["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  assert replicated["replicas"] == slices
  assert job["parallelism"] == job["completions"] == hosts
  pod = job["template"]["spec"]
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": accelerator,
    "cloud.google.com/gke-tpu-topology": topology,
  }
  (container,) = pod["containers"]
  assert container["resources"]["limits"] == {"google.com/tpu": chips}
  assert container["command"][-2:] == args
  environment = {e["name"]: e.get("value") for e in container["env"]}
  assert environment["MEGASCALE_NUM_SLICES"] == str(slices)
  # The first pod of the first job, in the JobSet's headless service.
  first = f"mae-{replicated['name']}-0-0.mae"
  assert environment["MEGASCALE_COORDINATOR_ADDRESS"] == first
  assert pod["subdomain"] == "mae"


def test_a_jobset_restarts_what_a_restart_mends():
  manifest, _ = jobset()
  spec = manifest["spec"]
  assert spec["failurePolicy"]["maxRestarts"] == 50
  (rule,) = spec["failurePolicy"]["rules"]
  assert rule["action"] == "FailJobSet"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  assert job["backoffLimit"] == 0
  (policy,) = job["podFailurePolicy"]["rules"]
  codes = policy["onExitCodes"]
  assert (policy["action"], codes["operator"]) == ("FailJob", "In")
  assert 1 in codes["values"]
  assert not {129, 130, 134, 137, 143, 175} & set(codes["values"])


def test_every_name_in_the_jobset_is_filled_in():
  names = string.Template((FOLDER / "jobset.yaml").read_text())
  assert "HOSTS" in names.get_identifiers()
  assert "${" not in json.dumps(jobset()[0])


def test_xpk_has_what_jax_would_ask_the_metadata_server_for():
  """Of several slices xpk itself sets it."""
  names = ("NUM_SLICES", "SLICE_ID", "COORDINATOR_ADDRESS")
  for slices, given in ((1, ("1", "0", "mae-slice-job-0-0.mae")), (2, ())):
    where = gke.Xpk("mae", "c", "image", tpu="v6e-16", num=slices)
    command, stdin = where.create(["--config=c"])
    expected = [
      f"--env=MEGASCALE_{name}={value}"
      for name, value in zip(names, given, strict=False)
    ]
    assert [word for word in command if "MEGASCALE" in word] == expected
    assert stdin is None


def sky():
  return yaml.safe_load((FOLDER / "sky.yaml").read_text())


def test_sky_recovers_after_our_codes():
  recovery = sky()["resources"]["job_recovery"]
  assert recovery["recover_on_exit_codes"] == [143, 175, 134]
  assert recovery["max_restarts_on_errors"] == 0


def test_what_sky_runs_is_a_script_without_faults():
  for part in ("setup", "run"):
    script = f"#!/bin/bash\n{sky()[part]}"
    done = subprocess.run(
      # SC2086: ARGS is a list. SC1090: a file that is not here.
      [tool("shellcheck"), "--exclude=SC2086,SC1090,SC2154", "-"],
      input=script,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stdout
