"""Joins the processes of a job, by flags or detection, with clear errors."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence

import jax

from sslx.config import ConfigError
from sslx.errors import RESTART, RestartError

# JAX's own timeouts are this much longer than ours, so that ours end the job
# first, with a clear message.
_JAX_LATER = 60  # seconds


def initialize(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  *,
  local_device_ids: Sequence[int] | None,
  bind_address: str | None,
  initialization_timeout: int,
  heartbeat_timeout: int,
  note: Callable[[str], None],
) -> None:
  """Joins this process to the other processes of the job.

  Arguments that are None are detected on Cloud TPU, GKE, SLURM and Open MPI.

  Args:
    coordinator: host:port of process 0.
    num_processes: number of processes in the job.
    process_id: number of this process, from 0.
    local_device_ids: the devices that this process uses; all by default.
    bind_address: host:port that process 0 listens at; all addresses by default.
    initialization_timeout: seconds to wait for the other processes.
    heartbeat_timeout: seconds of silence after which a process is lost.
    note: called with messages about what this process waits for.

  Raises:
    ConfigError: the flags contradict each other or the machine, or no other
      processes were detected.
    RestartError: the other processes did not join in time.
  """
  _check_flags(coordinator, num_processes, process_id)
  _check_slurm(local_device_ids)
  if coordinator and process_id == 0:
    _check_port(bind_address or f":{coordinator.rpartition(':')[2]}")
  # JAX must not handle signals: `job` does.
  jax.config.update("jax_enable_preemption_service", False)
  if coordinator:
    note(
      f"process {process_id} of {num_processes} joins at {coordinator}, within"
      f" {initialization_timeout} s"
    )
  joined = threading.Event()
  threading.Thread(
    target=_end_unless,
    args=(joined, initialization_timeout, process_id, coordinator, note),
    daemon=True,
    name="joining",
  ).start()
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      local_device_ids,
      initialization_timeout=initialization_timeout + _JAX_LATER,
      heartbeat_timeout_seconds=heartbeat_timeout + _JAX_LATER,
      shutdown_timeout_seconds=heartbeat_timeout,
      coordinator_bind_address=bind_address,
    )
  except Exception as error:  # Detection can fail with any error.
    reason = str(error).strip().splitlines()[0]
    if coordinator is not None:
      raise RestartError(
        f"process {process_id} could not join the others at {coordinator}:"
        f" {reason}."
      ) from error
    raise ConfigError(
      "--distributed found no other processes: neither a TPU pod, nor GKE, nor"
      " SLURM (srun), nor Open MPI says where process 0 is"
      f" ({type(error).__name__}: {reason}). Give --coordinator=HOST:PORT"
      " --num_processes=N --process_id=I in each process, or leave"
      " --distributed out."
    ) from error
  finally:
    joined.set()


def _end_unless(
  joined: threading.Event,
  timeout: int,
  process_id: int | None,
  coordinator: str | None,
  note: Callable[[str], None],
) -> None:
  """Ends the process if it has not joined in time; JAX would abort later."""
  who = "this process" if process_id is None else f"process {process_id}"
  where = coordinator or "the place that was detected"
  if joined.wait(min(30, timeout)):
    return
  note(f"{who} still waits for the other processes at {where}")
  if joined.wait(max(0, timeout - 30)):
    return
  print(
    f"\nerror: {who} could not join the others at {where} within {timeout} s"
    " (--initialization_timeout). Check that all processes were started, and"
    " that the host and port of process 0 can be reached from here.",
    file=sys.stderr,
    flush=True,
  )
  os._exit(RESTART)


def _check_flags(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  flags = {
    "--coordinator": coordinator,
    "--num_processes": num_processes,
    "--process_id": process_id,
  }
  given = [name for name, value in flags.items() if value is not None]
  if given and len(given) < len(flags):
    missing = ", ".join(sorted(flags.keys() - set(given)))
    raise ConfigError(
      f"{', '.join(given)} without {missing}: the three go together. Leave all"
      " out where they are detected."
    )
  if not given:
    return
  host, _, port = coordinator.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise ConfigError(
      f"--coordinator={coordinator!r} is not host:port, such as 10.0.0.2:8476."
    )
  if not 0 <= process_id < num_processes:
    raise ConfigError(
      f"--process_id={process_id} is not from 0 to {num_processes - 1}, one"
      f" less than --num_processes={num_processes}."
    )


def _check_port(address: str) -> None:
  """Rejects a port in use, on which JAX ends with a segmentation fault."""
  host, _, port = address.rpartition(":")
  with contextlib.closing(socket.socket()) as test:
    test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      test.bind(("" if host == "[::]" else host, int(port)))
      test.listen()
    except OSError as error:
      raise ConfigError(
        f"process 0 cannot listen at {address}: {error.strerror}. Another"
        " program has this port, perhaps an earlier run that has not ended yet."
        " Give --coordinator another port, in all processes."
      ) from error


def _check_slurm(local_device_ids: Sequence[int] | None) -> None:
  """Rejects a SLURM task with several GPUs, of which JAX would use only one."""
  env = os.environ
  task = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID")
  if local_device_ids or env.get("JAX_LOCAL_DEVICE_IDS"):
    return
  if not all(name in env for name in task):
    return
  if env.get("JAX_PLATFORMS", "").startswith("cpu"):
    return
  gpus = env.get("SLURM_GPUS_ON_NODE", "0")
  tasks = env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_NTASKS_PER_NODE"))
  tasks = (tasks or "1").partition("(")[0].partition(",")[0]
  if gpus.isdigit() and tasks.isdigit() and int(gpus) > int(tasks):
    ids = ",".join(map(str, range(int(gpus))))
    raise ConfigError(
      f"SLURM gives this node {gpus} GPUs and runs {tasks} task(s) on it, and"
      " JAX uses one GPU in each task. Start a task for each GPU (srun"
      f" --ntasks-per-node={gpus}), or give --local_device_ids={ids}."
    )
