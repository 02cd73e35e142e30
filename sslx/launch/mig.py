"""TPU v5p and newer on Compute Engine, as a bulk managed instance group.

A slice consists of a workload policy (its topology), an instance template (its
hosts) and a group that gets all hosts or none. The Cloud TPU API does not see
these hosts. See
https://docs.cloud.google.com/compute/docs/accelerator-optimized-machines.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Literal

from sslx.launch import commands, slices
from sslx.launch.commands import Command
from sslx.launch.slices import State, Step

# The port of jax.distributed's coordinator in JAX's own detection.
_PORT = 8482

_IMAGES = {
  "tpu7x": "ubuntu-accel-2404-amd64-tpu-tpu7x",
  "ct": "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e",
}

_MODELS = {
  "standard": ("STANDARD",),
  # A stopped host stays in the list, which shows that it was preempted.
  "spot": ("SPOT", "--instance-termination-action=STOP"),
  "flex-start": (
    "FLEX_START",
    "--max-run-duration=7d",
    "--instance-termination-action=DELETE",
  ),
  "reservation": (
    "RESERVATION_BOUND",
    "--reservation-affinity=specific",
    "--instance-termination-action=DELETE",
  ),
}


@dataclasses.dataclass(frozen=True)
class InstanceGroup:
  """A TPU slice as an instance group of Compute Engine.

  Attributes:
    name: name of the group; the policy is NAME-wp, and the template NAME-it.
    project: Google Cloud project.
    zone: zone, such as us-east5-b.
    machine: machine type of the hosts: ct6e-standard-4t, ct5p-hightpu-4t,
      tpu7x-standard-4t.
    topology: chips along each side: 4x4, or 2x2x2 for v5p and tpu7x.
    model: provisioning model. `flex-start` waits in a queue, and gives the
      machines for at most seven days.
    reservation: name of the reservation, with model=reservation.
    internal_ip: hosts have no external address, and ssh uses the internal one.
    iap: ssh goes through Identity-Aware Proxy.
  """

  name: str
  project: str
  zone: str
  machine: str
  topology: str
  model: Literal["standard", "spot", "flex-start", "reservation"] = "standard"
  reservation: str = ""
  internal_ip: bool = False
  iap: bool = False

  def __post_init__(self):
    if not re.fullmatch(r"\d+(x\d+){1,2}", self.topology):
      commands.fail(f"--topology={self.topology!r} is not like 4x4 or 2x2x2.")
    if not re.fullmatch(r"\w+-\w+-\d+t", self.machine):
      commands.fail(
        f"--machine={self.machine!r} is not like ct6e-standard-4t, whose number"
        " is that of the chips of a host."
      )
    chips = math.prod(map(int, self.topology.split("x")))
    per_host = self._chips_of_host()
    if chips % per_host:
      commands.fail(
        f"--topology={self.topology} has {chips} chips, which hosts of"
        f" {per_host} (--machine={self.machine}) do not make."
      )
    if (self.model == "reservation") != bool(self.reservation):
      commands.fail("--model=reservation and --reservation=NAME go together.")

  def steps(self) -> list[Step]:
    """See `slices.Slice`."""
    region = self.zone.rpartition("-")[0]
    # gcloud refuses a bare name: "The URL is malformed".
    parent = f"projects/{self.project}/regions/{region}"
    policy, template = f"{self.name}-wp", f"{self.name}-it"
    model, *more = _MODELS[self.model]
    if self.reservation:
      more.append(f"--reservation={self.reservation}")
    image = next(f for p, f in _IMAGES.items() if self.machine.startswith(p))
    # The newest machines take only these disks and network cards.
    newest = self.machine.startswith("tpu7x")
    in_region = f"--region={region}"
    kinds = {
      ("resource-policies", policy, in_region): [
        "resource-policies",
        "create",
        "workload-policy",
        policy,
        in_region,
        "--type=HIGH_THROUGHPUT",
        f"--accelerator-topology={self.topology}",
        "--accelerator-topology-mode=AUTO_CONNECT",
      ],
      ("instance-templates", template, in_region): [
        "instance-templates",
        "create",
        template,
        f"--instance-template-region={region}",
        f"--machine-type={self.machine}",
        "--image-project=ubuntu-os-accelerator-images",
        f"--image-family={image}",
        "--maintenance-policy=TERMINATE",
        f"--provisioning-model={model}",
        *more,
        "--boot-disk-size=200GB",
        *(["--boot-disk-type=hyperdisk-balanced"] if newest else []),
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        *self._network(),
      ],
      ("instance-groups managed", self.name, f"--zone={self.zone}"): [
        *("instance-groups", "managed", "create", self.name),
        f"--zone={self.zone}",
        "--size=0",
        f"--template={parent}/instanceTemplates/{template}",
        # The group gets all hosts or none, and never replaces a single host.
        "--target-size-policy-mode=bulk",
        "--default-action-on-vm-failure=do-nothing",
        f"--workload-policy={parent}/resourcePolicies/{policy}",
      ],
    }
    steps = [
      Step(
        self._gcloud(*kind.split(), "describe", name, place),
        self._gcloud(*make),
        self._gcloud(*kind.split(), "delete", name, place, "--quiet"),
      )
      for (kind, name, place), make in kinds.items()
    ]
    resize = self._gcloud(
      *("instance-groups", "managed", "resize", self.name),
      f"--zone={self.zone}",
      f"--size={self._count()}",
    )
    return [*steps, Step(None, resize, None)]

  def describe(self) -> Command:
    """See `slices.Slice`."""
    return self._list("value[separator=' '](name,instanceStatus)")

  def parse_state(self, result: commands.Result) -> State:
    """See `slices.Slice`."""
    if commands.dry_run():
      return State(slices.READY, "")
    if result.code:
      if "not found" in result.output:
        return State(slices.ABSENT, result.output)
      raise commands.Failure(f"the state of {self.name!r}: {result.output}")
    rows = [line.split(" ") for line in result.output.splitlines() if line]
    states = [row[1] if len(row) > 1 else "" for row in rows]
    if {"STOPPING", "STOPPED", "SUSPENDED", "TERMINATED"} & set(states):
      return State(slices.FAILED, result.output)
    if states == ["RUNNING"] * self._count():
      return State(slices.READY, result.output)
    return State(slices.WAITING, result.output or "no host yet")

  def hosts(self) -> list[str]:
    """Names of the machines, sorted; the order has no meaning in the slice."""
    dry = [f"{self.name}-{i:04}" for i in range(self._count())]
    listed = commands.ask(self._list("value(name)"), dry="\n".join(dry))
    names = sorted(listed.output.split())
    if listed.code or len(names) != self._count():
      raise commands.Failure(
        f"{self.name!r} should have {self._count()} hosts; gcloud says:"
        f" {listed.output or 'none'}"
      )
    return names

  def ssh(self, host: str, command: str) -> Command:
    """See `slices.Slice`."""
    return self._gcloud("ssh", host, *self._reach(), f"--command={command}")

  def scp(self, host: str, files: Sequence[str]) -> Command:
    """See `slices.Slice`."""
    return self._gcloud("scp", *files, f"{host}:", *self._reach())

  def flags(self, hosts: Sequence[str]) -> list[list[str]]:
    """Coordinator, number of processes and process id, for each host.

    It is not documented whether JAX detects such a slice, so all three are
    given. A host's name does not contain its number in the slice, so each host
    is asked.
    """
    numbers = []
    for i, host in enumerate(hosts):
      asked = self.ssh(host, "bash worker.sh number")
      told = commands.ask(asked, dry=str(i)).output
      numbers.append(int(told) if told.isdecimal() else -1)
    if sorted(numbers) != list(range(len(hosts))):
      commands.say(f"hosts say that their numbers are {numbers}: I count them")
      numbers = list(range(len(hosts)))
    return [
      [
        f"--coordinator={hosts[numbers.index(0)]}:{_PORT}",
        f"--num_processes={len(hosts)}",
        f"--process_id={number}",
      ]
      for number in numbers
    ]

  def _network(self) -> list[str]:
    if self.machine.startswith("tpu7x"):
      address = ",no-address" if self.internal_ip else ""
      return [f"--network-interface=nic-type=GVNIC{address}"]
    return ["--no-address"] if self.internal_ip else []

  def _chips_of_host(self) -> int:
    return int(self.machine.rpartition("-")[2].rstrip("t"))

  def _count(self) -> int:
    chips = math.prod(map(int, self.topology.split("x")))
    return chips // self._chips_of_host()

  def _reach(self) -> list[str]:
    return [
      f"--zone={self.zone}",
      *(["--internal-ip"] if self.internal_ip else []),
      *(["--tunnel-through-iap"] if self.iap else []),
    ]

  def _list(self, shown: str) -> Command:
    return self._gcloud(
      *("instance-groups", "managed", "list-instances", self.name),
      f"--zone={self.zone}",
      f"--format={shown}",
    )

  def _gcloud(self, *arguments: str) -> Command:
    return ["gcloud", "compute", *arguments, f"--project={self.project}"]
