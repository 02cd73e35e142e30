"""Runs several processes of one job on this machine.

`local` rehearses a pod on a CPU. `gpu_node` runs one process per GPU of this
node; a job may have several nodes.
"""

from __future__ import annotations

import dataclasses
import socket
import sys

from sslx.launch import commands
from sslx.launch.commands import Command


@dataclasses.dataclass(frozen=True)
class Local:
  """Processes on this machine's CPU, over gloo.

  Attributes:
    processes: number of processes.
    devices: CPU devices of each process.
    port: port of the coordinator; 0 takes a free one.
    grace: seconds that the other processes have to end after one has failed.
      They end after sslx.main's --heartbeat_timeout, so give more than that.
  """

  processes: int = 2
  devices: int = 1
  port: int = 0
  grace: float = 90.0

  def processes_of(
    self, args: list[str]
  ) -> list[tuple[Command, dict[str, str]]]:
    """The command and the added environment variables of each process."""
    port = self.port or free_port()
    environment = {
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(self.devices),
    }
    return [
      (main(args, f"localhost:{port}", self.processes, i), environment)
      for i in range(self.processes)
    ]


@dataclasses.dataclass(frozen=True)
class GpuNode:
  """One process per GPU, on this node; start it once on each node.

  Attributes:
    gpus: GPUs of this node, the same on all nodes; 0 asks nvidia-smi.
    nodes: number of nodes of the job.
    node: number of this node, from 0.
    coordinator: address of node 0.
    port: port of the coordinator, on node 0.
    grace: seconds that the other processes have to end after one has failed.
      They end after sslx.main's --heartbeat_timeout, so give more than that.
  """

  gpus: int = 0
  nodes: int = 1
  node: int = 0
  coordinator: str = "localhost"
  port: int = 8476
  grace: float = 90.0

  def processes_of(
    self, args: list[str]
  ) -> list[tuple[Command, dict[str, str]]]:
    """The command and the added environment variables of each process."""
    if not 0 <= self.node < self.nodes:
      commands.fail(f"--node={self.node} is not from 0 to {self.nodes - 1}.")
    if self.nodes > 1 and self.coordinator == "localhost":
      commands.fail("give --coordinator=ADDRESS, that of node 0.")
    gpus = self.gpus or count_gpus()
    address = f"{self.coordinator}:{self.port}"
    return [
      (
        main(args, address, gpus * self.nodes, gpus * self.node + i)
        + [f"--local_device_ids={i}"],
        {},
      )
      for i in range(gpus)
    ]


def main(args: list[str], coordinator: str, count: int, number: int) -> Command:
  """The command of process `number` of `count`."""
  return [
    sys.executable,
    "-m",
    "sslx.main",
    "--distributed",
    f"--coordinator={coordinator}",
    f"--num_processes={count}",
    f"--process_id={number}",
    *args,
  ]


def free_port() -> int:
  """A free TCP port."""
  with socket.socket() as found:
    found.bind(("localhost", 0))
    return found.getsockname()[1]


def count_gpus() -> int:
  """The number of GPUs that nvidia-smi lists."""
  listed = commands.ask(["nvidia-smi", "--list-gpus"], dry="GPU 0\nGPU 1")
  count = len(listed.output.splitlines()) if listed.code == 0 else 0
  return count or commands.fail(
    f"nvidia-smi lists no GPU; it says: {listed.output or 'nothing'}"
  )


def run(where: Local | GpuNode, args: list[str]) -> int:
  """Runs a job on this machine; returns its exit code."""
  started = where.processes_of(args)
  codes = commands.together(
    [command for command, _ in started],
    [added for _, added in started],
    grace=where.grace,
  )
  return commands.verdict(codes)
