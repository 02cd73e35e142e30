"""TPU v2 to v6e as queued resources of the Cloud TPU API.

Google keeps this API for these generations, without new features. Newer
generations need Compute Engine (`mig`) or GKE (`gke`). See
https://docs.cloud.google.com/tpu/docs/queued-resources.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from sslx.launch import commands, slices
from sslx.launch.commands import Command
from sslx.launch.slices import State, Step

# By generation: how often the number in a type counts each chip (2 where it
# counts TensorCores), chips of the largest slice with one host, and software
# version of the hosts.
_GENERATIONS = {
  "v2": (2, 4, "tpu-ubuntu2204-base"),
  "v3": (2, 4, "tpu-ubuntu2204-base"),
  "v4": (2, 4, "tpu-ubuntu2204-base"),
  "v5litepod": (1, 8, "v2-alpha-tpuv5-lite"),
  "v5p": (2, 4, "v2-alpha-tpuv5"),
  "v6e": (1, 8, "v2-alpha-tpuv6e"),
}

_STATES = {
  "ACTIVE": slices.READY,
  "SUSPENDING": slices.FAILED,
  "SUSPENDED": slices.FAILED,
  "FAILED": slices.FAILED,
  "DELETING": slices.FAILED,
}


@dataclasses.dataclass(frozen=True)
class QueuedResource:
  """One TPU slice, or several that train together, from the Cloud TPU API.

  Attributes:
    name: name of the queued resource. Several slices are NAME-0, NAME-1, ...
    zone: zone, such as us-east5-b.
    type: TPU type, such as v6e-16, v5litepod-32, v5p-16.
    slices: number of slices; data parallelism goes over all of them.
    project: Google Cloud project; by default gcloud's.
    runtime: software version of the hosts; by default that of the type.
    spot: use spot machines, which are cheaper and may be preempted.
    reserved: use a reservation.
    internal_ip: hosts have no external address, and ssh uses the internal one.
  """

  name: str
  zone: str
  type: str
  slices: int = 1
  project: str = ""
  runtime: str = ""
  spot: bool = False
  reserved: bool = False
  internal_ip: bool = False

  def __post_init__(self):
    self._hosts_of_slice()

  def steps(self) -> list[Step]:
    """See `slices.Slice`."""
    several = self.slices > 1
    make = self._gcloud(
      "queued-resources",
      "create",
      self.name,
      f"--accelerator-type={self.type}",
      f"--runtime-version={self.runtime or self._generation()[2]}",
      *([f"--node-count={self.slices}"] if several else []),
      f"--node-{'prefix' if several else 'id'}={self.name}",
      *(["--spot"] if self.spot else []),
      *(["--reserved"] if self.reserved else []),
      *(["--internal-ips"] if self.internal_ip else []),
    )
    # --force also deletes the nodes.
    undo = self._gcloud(
      "queued-resources", "delete", self.name, "--force", "--quiet"
    )
    return [Step(self.describe(), make, undo)]

  def describe(self) -> Command:
    """See `slices.Slice`."""
    shown = "--format=value[separator=' '](state.state,state.failedData.error)"
    return self._gcloud("queued-resources", "describe", self.name, shown)

  def parse_state(self, result: commands.Result) -> State:
    """See `slices.Slice`."""
    if result.code:
      if "NOT_FOUND" in result.output or "not found" in result.output:
        return State(slices.ABSENT, result.output)
      raise commands.Failure(f"the state of {self.name!r}: {result.output}")
    word = result.output.partition(" ")[0]
    return State(_STATES.get(word, slices.WAITING), result.output)

  def hosts(self) -> list[str]:
    """`NODE/WORKER` for every host."""
    several = self.slices > 1
    return [
      f"{self.name}-{i}/{worker}" if several else f"{self.name}/{worker}"
      for i in range(self.slices)
      for worker in range(self._hosts_of_slice())
    ]

  def ssh(self, host: str, command: str) -> Command:
    """See `slices.Slice`."""
    node, worker = host.split("/")
    return self._gcloud(
      "tpu-vm",
      "ssh",
      node,
      f"--worker={worker}",
      *(["--internal-ip"] if self.internal_ip else []),
      f"--command={command}",
    )

  def scp(self, host: str, files: Sequence[str]) -> Command:
    """See `slices.Slice`."""
    node, worker = host.split("/")
    return self._gcloud(
      "tpu-vm",
      "scp",
      *files,
      f"{node}:",
      f"--worker={worker}",
      *(["--internal-ip"] if self.internal_ip else []),
    )

  def flags(self, hosts: Sequence[str]) -> list[list[str]]:
    """No flags: JAX asks the metadata server of each host."""
    return [[] for _ in hosts]

  def _generation(self) -> tuple[int, int, str]:
    found = re.fullmatch(r"(v\d\w*)-\d+", self.type)
    if found is None or found[1] not in _GENERATIONS:
      commands.fail(
        f"--type={self.type!r} is not a type such as v6e-16 of the generations"
        f" {', '.join(_GENERATIONS)}. Newer ones: launch/tpu_mig.sh or"
        " launch/gke_xpk.sh."
      )
    return _GENERATIONS[found[1]]

  def _hosts_of_slice(self) -> int:
    cores, single, _ = self._generation()
    chips = int(self.type.rpartition("-")[2]) // cores
    return 1 if chips <= single else chips // 4

  def _gcloud(self, *arguments: str) -> Command:
    project = [f"--project={self.project}"] if self.project else []
    zone = f"--zone={self.zone}"
    return ["gcloud", "compute", "tpus", *arguments, zone, *project]
