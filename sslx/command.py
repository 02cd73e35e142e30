"""What the commands that run a job share: flags, the job, and its errors.

Exit codes: 0, finished; 1, fix the error first; 175, the run stalled or lost a
process: start the same command again; 128 + signal, ended by a signal after
saving.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator

import jax
from absl import app, flags, logging

from sslx import config as config_lib
from sslx import distributed
from sslx.errors import RunError
from sslx.job import Job
from sslx.peers import Peers

WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the run: checkpoints, metrics, config; local, or gs://... A run"
  " goes on by itself from the newest checkpoint in it.",
  required=True,
)
_DISTRIBUTED = flags.DEFINE_boolean(
  "distributed",
  False,
  "Join the other processes of the job. Cloud TPU, GKE, SLURM and Open MPI are"
  " detected; elsewhere give the next three flags.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "host:port of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "In the job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this one, from 0.")
_LOCAL_DEVICE_IDS = flags.DEFINE_list(
  "local_device_ids",
  None,
  "The GPUs that this process uses, as 0,1,2,3; all by default, and one in a"
  " SLURM task.",
)
_BIND_ADDRESS = flags.DEFINE_string(
  "coordinator_bind_address",
  None,
  "host:port that process 0 listens at; by default all addresses.",
)
_INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
  "initialization_timeout",
  300,
  "Seconds to wait for the other processes at the start.",
  lower_bound=1,
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  "heartbeat_timeout",
  60,
  "Seconds of silence after which a process is lost, and the job ends.",
  lower_bound=5,
)
_STALL_TIMEOUT = flags.DEFINE_float(
  "stall_timeout",
  900,
  "Seconds that a step, a batch or a save may take before the job ends with"
  " exit code 175; compilation and evaluation may take six times as long. 0: no"
  " limit.",
  lower_bound=0,
)
_COMPILATION_CACHE = flags.DEFINE_string(
  "compilation_cache",
  None,
  "Folder of compiled programs, so that a restart need not compile. By default"
  " JAX_COMPILATION_CACHE_DIR, or a folder in the user's cache. 'off': none.",
)
# Size limit of the default cache; JAX deletes the least recently used programs.
_CACHE_BYTES = 8 * 2**30


def run(main: Callable[[list[tuple[str, str]]], None]) -> None:
  """Parses the flags and runs a command.

  Args:
    main: takes the overrides `--config.a.b=value`, in the order given, as
      (dotted key, text of the value).
  """
  jax.config.config_with_absl()
  app.run(main, flags_parser=parse_flags)


@contextlib.contextmanager
def job() -> Iterator[Job]:
  """Starts the job that the flags describe, and ends it after errors.

  A user error ends the program without a traceback.
  """
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Libraries log every file.
  peers = None
  try:
    _set_cache(_COMPILATION_CACHE.value)
    if _DISTRIBUTED.value:
      _join()
      peers = Peers(_HEARTBEAT_TIMEOUT.value)
  except (config_lib.ConfigError, RunError) as error:
    _exit(error)
  with Job(peers, _STALL_TIMEOUT.value or None) as this:
    try:
      yield this
    except (config_lib.ConfigError, RunError) as error:
      if peers:
        this.fail(str(error), getattr(error, "exit_code", 1))
      _exit(error)
    except Exception as error:
      if peers:  # Without peers, Python shows the traceback.
        this.crash(error, patience=_HEARTBEAT_TIMEOUT.value + 5)
      raise


def _exit(error: Exception) -> None:
  """Ends the program with a user error: prints no traceback."""
  print(f"\nerror: {error}", file=sys.stderr)
  sys.exit(getattr(error, "exit_code", 1))


def _join() -> None:
  ids = _LOCAL_DEVICE_IDS.value
  if ids is not None and not all(text.isdigit() for text in ids):
    raise config_lib.ConfigError(
      f"--local_device_ids={','.join(ids)} is not a list of numbers, such as"
      " 0,1,2,3."
    )
  distributed.initialize(
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    local_device_ids=[int(text) for text in ids] if ids else None,
    bind_address=_BIND_ADDRESS.value,
    initialization_timeout=_INITIALIZATION_TIMEOUT.value,
    heartbeat_timeout=_HEARTBEAT_TIMEOUT.value,
    note=lambda text: print(text, flush=True),
  )


def _set_cache(folder: str | None) -> None:
  """Turns on JAX's persistent compilation cache."""
  if folder == "off":
    jax.config.update("jax_enable_compilation_cache", False)
    return
  if folder is None:
    if jax.config.jax_compilation_cache_dir:
      return  # The user has set a cache in the environment.
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(cache) / "sslx" / f"xla-{_machine()}"
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  try:
    if "://" not in str(folder):  # A store needs no folder.
      os.makedirs(folder, exist_ok=True)
  except OSError as error:
    print(f"note: no compilation cache in {folder}: {error.strerror}")
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _machine() -> str:
  """Identifies the kind of CPU: a program compiled for another may crash."""
  kind = platform.machine()
  cpus = pathlib.Path("/proc/cpuinfo")
  if cpus.exists():
    lines = cpus.read_text().splitlines()
    kind += "".join(sorted({x for x in lines if x.startswith("flags")}))
  return hashlib.sha256(kind.encode()).hexdigest()[:8]


def parse_flags(argv: list[str]) -> list[tuple[str, str]]:
  """Parses all flags; returns the overrides `--config.a.b=value`."""
  try:
    overrides, rest = config_lib.split_overrides(argv)
  except config_lib.ConfigError as error:
    sys.exit(f"error: {error}")
  positional = app.parse_flags_with_usage(rest)[1:]
  if positional:
    sys.exit(f"error: unexpected arguments {positional}; flags start with --.")
  return overrides
