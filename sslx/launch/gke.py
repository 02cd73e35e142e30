"""Google Kubernetes Engine: TPU slices with xpk or a JobSet, GPUs with xpk.

xpk restarts a job only after exit codes 42 and 127 to 255. These include the
codes with which sslx.main asks for a restart, and exclude 1.
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

# Chips per host in a slice of several hosts, by GKE's name of the accelerator.
_ACCELERATORS = {
  "tpu-v4-podslice": 4,
  "tpu-v5-lite-podslice": 4,
  "tpu-v5p-slice": 4,
  "tpu-v6e-slice": 4,
  "tpu7x": 4,
}


@dataclasses.dataclass(frozen=True)
class Xpk:
  """A job started with xpk, on a cluster that xpk knows.

  Attributes:
    name: name of the workload.
    cluster: name of the GKE cluster.
    image: Docker image with sslx, built from `launch/Dockerfile`.
    project: Google Cloud project; by default xpk's.
    zone: zone of the cluster; by default xpk's.
    tpu: TPU type, such as v6e-16; tpu7x-4x4x8 counts devices, two per chip.
    gpu: GPU type instead of a TPU type, such as h100-mega-80gb-8.
    num: number of slices, or of GPU nodes.
    restarts: maximum number of restarts; xpk's own default is none.
    capacity: xpk's flag for the kind of capacity, without leading dashes; by
      default that of the cluster.
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
    """The command that creates the workload; it has no standard input."""
    if self.tpu:
      machine = [f"--tpu-type={self.tpu}", f"--num-slices={self.num}"]
      command = shlex.join(main(args))
    else:
      machine = [f"--device-type={self.gpu}", f"--num-nodes={self.num}"]
      # xpk sets these variables on GPU nodes.
      command = (
        "launch/gpu_node.sh --gpus=$GPUS_PER_NODE --nodes=$NNODES"
        " --node=$NODE_RANK --coordinator=$JAX_COORDINATOR_ADDRESS"
        f" --port=$JAX_COORDINATOR_PORT -- {shlex.join(args)}"
      )
    # Without these variables JAX asks the metadata server, even for one slice,
    # and fails where pods have no access to it (jax#40854). The address is that
    # of the first pod of xpk's JobSet.
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
      # The default, 30 s, may be too short for a checkpoint.
      "--termination-grace-period-seconds=120",
      *([f"--{self.capacity}"] if self.capacity else []),
      *[f"--env={k}={v}" for k, v in of_slice.items() if alone],
      f"--command={command}",
    ], None

  def logs(self) -> Command:
    """The command that shows the output of the processes."""
    return _logs(self.name)

  def status(self) -> Command:
    """The command that lists the workload."""
    return [
      *("xpk", "workload", "list", f"--filter-by-job={self.name}"),
      *self._cluster(),
    ]

  def delete(self) -> Command:
    """The command that deletes the workload."""
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
  """A job started with kubectl, from launch/jobset.yaml.

  Attributes:
    name: name of the JobSet.
    image: Docker image with sslx, built from `launch/Dockerfile`.
    accelerator: GKE's name: tpu-v6e-slice, tpu-v5-lite-podslice, tpu-v5p-slice,
      tpu-v4-podslice, tpu7x.
    topology: chips along each side, 4x4 or 2x2x2; that of the node pool.
    num: number of slices.
    restarts: maximum number of restarts.
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
    """The command that creates the JobSet, and its standard input."""
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
    """The command that shows the output of the processes."""
    return _logs(self.name)

  def status(self) -> Command:
    """The command that lists the JobSet and its pods."""
    label = f"--selector=jobset.sigs.k8s.io/jobset-name={self.name}"
    return ["kubectl", "get", "jobset,jobs,pods", label]

  def delete(self) -> Command:
    """The command that deletes the JobSet."""
    return ["kubectl", "delete", "jobset", self.name]


def main(args: list[str]) -> list[str]:
  """The command that runs in the container."""
  return ["python", "-m", "sslx.main", "--distributed", *args]


def _logs(name: str) -> Command:
  return [
    *("kubectl", "logs", "--follow", "--prefix", "--tail=1000"),
    "--max-log-requests=256",
    f"--selector=jobset.sigs.k8s.io/jobset-name={name}",
  ]


def _check_name(name: str) -> None:
  # Kubernetes appends to the name, and allows 63 characters in all.
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
    commands.fail(
      f"--name={name!r} is not up to 40 of a-z, 0-9 and -, from a letter on."
    )
