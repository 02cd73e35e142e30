"""Google Kubernetes Engine: TPU slices by xpk or a JobSet, GPUs by xpk.

xpk restarts a job after exit codes 42 and 127 to 255 only: so after those of
sslx.main that ask for it, and not after 1.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
import string

from sslx.launch import commands, slices
from sslx.launch.commands import Command

# By GKE's name of the accelerator: chips of a host of a slice of several hosts.
_ACCELERATORS = {
  "tpu-v4-podslice": 4,
  "tpu-v5-lite-podslice": 4,
  "tpu-v5p-slice": 4,
  "tpu-v6e-slice": 4,
  "tpu7x": 4,
}


@dataclasses.dataclass(frozen=True)
class Xpk:
  """A job by xpk, on a cluster that xpk knows.

  Attributes:
    name: of the workload.
    cluster: of GKE.
    image: Docker image with sslx, of `launch/Dockerfile`.
    project: default: xpk's.
    zone: default: xpk's.
    tpu: such as v6e-16 or tpu7x-4x4x8, which counts devices, two a chip.
    gpu: such as h100-mega-80gb-8, instead of a TPU.
    num: slices, or nodes of GPUs.
    restarts: at most; xpk's default would be none.
    capacity: how the machines are had; default: the cluster's.
  """

  name: str
  cluster: str
  image: str
  project: str = ""
  zone: str = ""
  tpu: str = ""
  gpu: str = ""
  num: int = 1
  restarts: int = 50
  capacity: str = ""

  def __post_init__(self):
    _check_name(self.name)
    if bool(self.tpu) == bool(self.gpu):
      commands.fail("give --tpu=TYPE or --gpu=TYPE, one of them.")

  def create(self, args: list[str]) -> tuple[Command, str | None]:
    """The command, and its standard input."""
    if self.tpu:
      machine = [f"--tpu-type={self.tpu}", f"--num-slices={self.num}"]
      command = shlex.join(main(args))
    else:
      machine = [f"--device-type={self.gpu}", f"--num-nodes={self.num}"]
      # xpk sets these variables where there are GPUs.
      command = (
        "launch/gpu_node.sh --gpus=$GPUS_PER_NODE --nodes=$NNODES"
        " --node=$NODE_RANK --coordinator=$JAX_COORDINATOR_ADDRESS"
        f" --port=$JAX_COORDINATOR_PORT -- {shlex.join(args)}"
      )
    # JAX asks the metadata server for these, also for one slice, and fails
    # where pods may not ask (jax#40854). The pod is the first of xpk's JobSet.
    of_slice = {
      "MEGASCALE_NUM_SLICES": "1",
      "MEGASCALE_SLICE_ID": "0",
      "MEGASCALE_COORDINATOR_ADDRESS": f"{self.name}-slice-job-0-0.{self.name}",
    }
    alone = self.tpu and self.num == 1
    return [
      *("xpk", "workload", "create"),
      f"--workload={self.name}",
      *self._cluster(),
      *machine,
      f"--docker-image={self.image}",
      f"--max-restarts={self.restarts}",
      # The default, 30 s, may be short for a checkpoint.
      "--termination-grace-period-seconds=120",
      *([f"--{self.capacity}"] if self.capacity else []),
      *[f"--env={k}={v}" for k, v in of_slice.items() if alone],
      f"--command={command}",
    ], None

  def logs(self) -> Command:
    """Prints what the processes print."""
    return _logs(self.name)

  def status(self) -> Command:
    """Lists the workload."""
    return [
      *("xpk", "workload", "list", f"--filter-by-job={self.name}"),
      *self._cluster(),
    ]

  def delete(self) -> Command:
    """Deletes the workload."""
    return [
      *("xpk", "workload", "delete", f"--workload={self.name}"),
      *self._cluster(),
    ]

  def _cluster(self) -> list[str]:
    return [
      f"--cluster={self.cluster}",
      *([f"--project={self.project}"] if self.project else []),
      *([f"--zone={self.zone}"] if self.zone else []),
    ]


@dataclasses.dataclass(frozen=True)
class JobSet:
  """A job by kubectl, from launch/jobset.yaml.

  Attributes:
    name: of the JobSet.
    image: Docker image with sslx, of `launch/Dockerfile`.
    accelerator: GKE's name: tpu-v6e-slice, tpu-v5-lite-podslice, tpu-v5p-slice,
      tpu-v4-podslice, tpu7x.
    topology: chips along each side, 4x4 or 2x2x2, as the node pool has it.
    num: slices.
    restarts: at most.
  """

  name: str
  image: str
  accelerator: str
  topology: str
  num: int = 1
  restarts: int = 50

  def __post_init__(self):
    _check_name(self.name)
    if self.accelerator not in _ACCELERATORS:
      commands.fail(
        f"--accelerator={self.accelerator!r} is none of"
        f" {', '.join(_ACCELERATORS)}."
      )
    if not re.fullmatch(r"\d+(x\d+){1,2}", self.topology):
      commands.fail(f"--topology={self.topology!r} is not like 4x4 or 2x2x2.")

  def create(self, args: list[str]) -> tuple[Command, str | None]:
    """The command, and its standard input."""
    chips = math.prod(map(int, self.topology.split("x")))
    per_host = min(chips, _ACCELERATORS[self.accelerator])
    text = (slices.ROOT / "launch" / "jobset.yaml").read_text()
    manifest = string.Template(text).substitute(
      NAME=self.name,
      IMAGE=self.image,
      ACCELERATOR=self.accelerator,
      TOPOLOGY=self.topology,
      SLICES=self.num,
      HOSTS=chips // per_host,
      CHIPS=per_host,
      RESTARTS=self.restarts,
      COMMAND=json.dumps(main(args)),  # JSON is YAML.
    )
    return ["kubectl", "apply", "--filename=-"], manifest

  def logs(self) -> Command:
    """Prints what the processes print."""
    return _logs(self.name)

  def status(self) -> Command:
    """Lists the JobSet and its pods."""
    label = f"--selector=jobset.sigs.k8s.io/jobset-name={self.name}"
    return ["kubectl", "get", "jobset,jobs,pods", label]

  def delete(self) -> Command:
    """Deletes the JobSet."""
    return ["kubectl", "delete", "jobset", self.name]


def main(args: list[str]) -> list[str]:
  """What runs in the container."""
  return ["python", "-m", "sslx.main", "--distributed", *args]


def _logs(name: str) -> Command:
  return [
    *("kubectl", "logs", "--follow", "--prefix", "--tail=1000"),
    "--max-log-requests=256",
    f"--selector=jobset.sigs.k8s.io/jobset-name={name}",
  ]


def _check_name(name: str) -> None:
  # Kubernetes adds to it, and allows 63 characters.
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
    commands.fail(
      f"--name={name!r} is not up to 40 of a-z, 0-9 and -, from a letter on."
    )
