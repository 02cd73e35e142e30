"""What each launcher would do, word for word: `goldens/`.

After a change that is meant, write them anew by
`UPDATE_GOLDENS=1 pytest tests/launch/transcripts_test.py` and read the diff.
"""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tarfile

import pytest

from sslx.launch import slices
from tests import tiny

GOLDENS = pathlib.Path(__file__).parent / "goldens"
ARGS = ["--", "--config=configs/mae.py", "--workdir=/shared/mae"]
POD = ["--name=t", "--zone=us-east5-b", "--type=v6e-16"]
SLICES = [
  *("--name=t", "--zone=us-central2-b", "--type=v4-16", "--slices=2"),
  *("--project=p", "--internal_ip"),
]
MIG = [
  *("--name=t", "--project=p", "--zone=us-east5-b"),
  *("--machine=ct6e-standard-4t", "--topology=2x4"),
]
NEWEST = [
  *("--name=t", "--project=p", "--zone=us-central1-c"),
  *("--machine=tpu7x-standard-4t", "--topology=2x2x2"),
]
XPK = ["--name=t", "--cluster=c", "--image=gcr.io/p/sslx"]
JOBSET = ["--name=t", "--image=gcr.io/p/sslx", "--topology=4x4"]
V6E = ["--accelerator=tpu-v6e-slice"]

CASES = {
  "local": ["local", "--port=8476", "--devices=4", *ARGS],
  "gpu_node": ["gpu_node", *ARGS],
  "gpu_node_second": [
    *("gpu_node", "--gpus=2", "--nodes=2", "--node=1", "--coordinator=host0"),
    *ARGS,
  ],
  "tpu_pod_create": ["tpu_pod", "create", *POD, "--spot"],
  "tpu_pod_create_slices": ["tpu_pod", "create", *SLICES, "--reserved"],
  "tpu_pod_setup": ["tpu_pod", "setup", *POD],
  "tpu_pod_run": ["tpu_pod", "run", *POD, *ARGS],
  "tpu_pod_run_slices": [
    *("tpu_pod", "run", *SLICES, "--before=sudo mount -t nfs nfs:/a /shared"),
    *ARGS,
  ],
  "tpu_pod_logs": ["tpu_pod", "logs", *POD],
  "tpu_pod_status": ["tpu_pod", "status", *POD],
  "tpu_pod_stop": ["tpu_pod", "stop", *POD],
  "tpu_pod_delete": ["tpu_pod", "delete", *POD],
  "tpu_mig_create": ["tpu_mig", "create", *MIG, "--model=flex-start"],
  "tpu_mig_create_reserved": [
    *("tpu_mig", "create", *NEWEST, "--model=reservation"),
    *("--reservation=r", "--internal_ip"),
  ],
  "tpu_mig_setup": ["tpu_mig", "setup", *MIG, "--iap"],
  "tpu_mig_run": ["tpu_mig", "run", *MIG, *ARGS],
  "tpu_mig_status": ["tpu_mig", "status", *MIG],
  "tpu_mig_delete": ["tpu_mig", "delete", *MIG],
  "tpu_retry_pod": ["tpu_retry", "pod", *POD, "--spot", *ARGS],
  "tpu_retry_mig": ["tpu_retry", "mig", *MIG, "--model=spot", *ARGS],
  "gke_xpk_create": ["gke_xpk", "create", *XPK, "--tpu=v6e-16", *ARGS],
  "gke_xpk_create_slices": [
    *("gke_xpk", "create", *XPK, "--tpu=tpu7x-4x4x8", "--num=2"),
    *("--project=p", "--zone=z", "--capacity=spot", *ARGS),
  ],
  "gke_xpk_create_gpu": [
    *("gke_xpk", "create", *XPK, "--gpu=h100-mega-80gb-8", "--num=4", *ARGS),
  ],
  "gke_xpk_status": ["gke_xpk", "status", *XPK, "--tpu=v6e-16"],
  "gke_xpk_delete": ["gke_xpk", "delete", *XPK, "--tpu=v6e-16"],
  "gke_jobset_create": ["gke_jobset", "create", *JOBSET, *V6E, *ARGS],
  "gke_jobset_logs": ["gke_jobset", "logs", *JOBSET, *V6E],
  "gke_jobset_status": ["gke_jobset", "status", *JOBSET, *V6E],
  "gke_jobset_delete": ["gke_jobset", "delete", *JOBSET, *V6E],
}


def shown(script, *arguments, code=0):
  """What a script prints with DRY_RUN=1, where no other command is found."""
  done = subprocess.run(
    ["/bin/bash", f"{tiny.ROOT}/launch/{script}.sh", *arguments],
    env={"DRY_RUN": "1", "PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == code, done.stderr
  if code:
    assert "Traceback" not in done.stderr
    return done.stderr
  # The Python may be in an environment of this folder.
  text = done.stdout.replace(sys.executable, "python")
  return text.replace(str(tiny.ROOT), "ROOT")


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
  path = GOLDENS / f"{name}.txt"
  if "git -C ROOT" in path.read_text() and not (tiny.ROOT / ".git").exists():
    pytest.skip("this folder is not a git checkout, whose commit hosts get")
  text = shown(*CASES[name])
  if os.environ.get("UPDATE_GOLDENS"):
    path.write_text(text)
  assert text == path.read_text()


def test_sources_without_git_are_sent_as_they_are(tmp_path, monkeypatch):
  """Of an unpacked release; but nothing that was built on this machine."""
  for name in ("setup.cfg", "sslx/main.py", "launch/worker.sh"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  for name in (".venv/bin/python", "sslx/_native.so", "sslx/__pycache__/a.pyc"):
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / name).write_text(name)
  monkeypatch.setattr(slices, "ROOT", tmp_path)
  monkeypatch.delenv("DRY_RUN", raising=False)
  slices.check_sources()
  with slices._archive("t") as path, tarfile.open(path) as tar:
    files = {entry.name for entry in tar if entry.isfile()}
  assert files == {"setup.cfg", "sslx/main.py", "launch/worker.sh"}


def test_an_installed_package_has_nothing_to_send(tmp_path, monkeypatch):
  monkeypatch.setattr(slices, "ROOT", tmp_path)
  with pytest.raises(SystemExit, match="from a checkout of sslx"):
    slices.check_sources()


def test_no_golden_is_left_over():
  assert {path.stem for path in GOLDENS.glob("*.txt")} == set(CASES)


# Of compute's group and policy commands; newer than some SDKs that are in use.
NEWER = {"--accelerator-topology-mode", "--target-size-policy-mode"}


def test_gcloud_knows_every_command_and_flag():
  """Against the tree of commands that the SDK has for completion."""
  trees = [
    pathlib.Path(root) / "data/cli/gcloud_completions.py"
    for root in ("/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk")
  ]
  tree = next((path for path in trees if path.exists()), None)
  if tree is None:
    pytest.skip("the Google Cloud SDK is not installed")
  spec = importlib.util.spec_from_file_location("completions", tree)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  checked = 0
  for path in GOLDENS.glob("*.txt"):
    # A quoted argument may go over several lines.
    for line in re.split(r"\n(?=gcloud |git )", path.read_text()):
      if not line.startswith("gcloud "):
        continue
      words = shlex.split(line)[1:]
      node, flags = module.STATIC_COMPLETION_CLI_TREE, {}
      flags |= node["flags"]
      while words and words[0] in node["commands"]:
        node = node["commands"][words.pop(0)]
        flags |= node["flags"]
      assert not node["commands"], f"{line}: no such command"
      given = {w.partition("=")[0] for w in words if w.startswith("--")}
      unknown = given - set(flags) - NEWER
      assert not unknown, f"{path.name}: {unknown} in {line}"
      checked += 1
  assert checked > 50


@pytest.mark.parametrize(
  ("type_", "hosts"),
  [
    # https://docs.cloud.google.com/tpu/docs: hosts of each type's table.
    *(("v2-8", 1), ("v3-8", 1), ("v3-32", 4), ("v4-8", 1), ("v4-16", 2)),
    *(("v4-32", 4), ("v5litepod-4", 1), ("v5litepod-8", 1)),
    *(("v5litepod-16", 4), ("v5litepod-256", 64), ("v5p-8", 1), ("v5p-16", 2)),
    *(("v6e-1", 1), ("v6e-8", 1), ("v6e-16", 4), ("v6e-256", 64)),
  ],
)
def test_a_run_reaches_every_host_of_a_type(type_, hosts):
  text = shown("tpu_pod", "status", "--name=t", "--zone=z", f"--type={type_}")
  workers = re.findall(r"--worker=(\d+)", text)
  assert workers == [str(i) for i in range(hosts)]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["tpu_pod", "run", *POD], "--config is missing"),
    (
      ["tpu_pod", "run", *POD, "--", "--config=c"],
      "--workdir is missing. The arguments of sslx.main come after --",
    ),
    (["tpu_pod", "create", *POD, *ARGS], "no arguments after --"),
    (
      ["tpu_pod", "create", *POD[:2], "--type=v7x-8"],
      "--type='v7x-8' is not a type such as v6e-16",
    ),
    (
      ["tpu_mig", "create", *MIG, "--topology=4x"],
      "--topology='4x' is not like 4x4",
    ),
    (
      ["tpu_mig", "create", *MIG, "--topology=3x3"],
      "has 9 chips, which hosts of 4",
    ),
    (
      ["tpu_mig", "create", *MIG, "--model=reservation"],
      "--reservation=NAME go together",
    ),
    (["gke_xpk", "create", *XPK, *ARGS], "--tpu=TYPE or --gpu=TYPE"),
    (
      ["gke_xpk", "create", *XPK, "--name=A_b", "--tpu=v6e-16", *ARGS],
      "--name='A_b' is not up to 40",
    ),
    (
      ["gke_jobset", "create", *JOBSET, "--accelerator=v6e", *ARGS],
      "--accelerator='v6e' is none of",
    ),
    (["gpu_node", "--node=2", "--nodes=2", *ARGS], "not from 0 to 1"),
    (["gpu_node", "--nodes=2", *ARGS], "give --coordinator=ADDRESS"),
  ],
)
def test_bad_input_is_one_clear_error(arguments, message):
  error = shown(*arguments, code=1)
  assert error.startswith("error: ")
  assert message in error


def test_the_readmes_command_is_one():
  text = (tiny.ROOT / "launch" / "README.md").read_text()
  (block,) = re.findall(r"```shell\n(launch/.*?)```", text, re.S)
  done = subprocess.run(
    ["bash", "-c", block],
    cwd=tiny.ROOT,
    env={"DRY_RUN": "1", "PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.count("--stage=/dev/shm/tfds") == 4, "on every host"
  for name in re.findall(r"`(?:launch/)?(\w+\.(?:sh|sbatch|yaml))", text):
    assert (tiny.ROOT / "launch" / name).exists(), name


def test_what_is_not_installed_is_named(tmp_path):
  done = subprocess.run(
    [
      "/bin/bash",
      f"{tiny.ROOT}/launch/gke_xpk.sh",
      "status",
      *XPK,
      "--tpu=v6e-8",
    ],
    env={"PYTHON": sys.executable, "PATH": f"{tmp_path}:/usr/bin:/bin"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert "error: xpk is not installed, or not on PATH." in done.stderr
