"""Runs commands: the only file of `sslx.launch` that starts a program.

If the environment has DRY_RUN=1, it prints commands and does not run them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

from sslx.errors import RESTART

Command = list[str]

TERMINATED = 128 + signal.SIGTERM


class Stopped(Exception):
  """The signal `number` told this launcher to end."""

  def __init__(self, number: int):
    """Keeps the number of the signal."""
    super().__init__(f"stopped by {signal.Signals(number).name}")
    self.number = number


class Failure(Exception):
  """A command of the cloud failed in a way that may pass with time."""


class Result(NamedTuple):
  """The exit code of a command, and its output on stdout and stderr."""

  code: int
  output: str


def dry_run() -> bool:
  """Whether commands are printed and not run."""
  return os.environ.get("DRY_RUN", "0") not in ("", "0")


def say(text: str) -> None:
  """Prints a message of the launcher to stderr; stdout is for commands."""
  print(f"launch: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
  """Ends the launcher with a user error: no traceback."""
  sys.exit(f"error: {text}")


def show(command: Command, stdin: str | None = None) -> None:
  """Prints a command in shell syntax, and its standard input if any."""
  print(shlex.join(command), flush=True)
  if stdin is not None:
    print("".join(f"  | {line}\n" for line in stdin.splitlines()), end="")


def run(command: Command, stdin: str | None = None) -> int:
  """Runs a command that shares our output streams; returns its exit code."""
  if dry_run():
    show(command, stdin)
    return 0
  say(shlex.join(command))
  try:
    return subprocess.run(
      command, input=stdin, text=True, check=False
    ).returncode
  except FileNotFoundError:
    fail(f"{command[0]} is not installed, or not on PATH.")


def ask(command: Command, dry: str = "") -> Result:
  """Runs a command and returns its output.

  Args:
    command: the command.
    dry: output to assume under DRY_RUN.
  """
  if dry_run():
    show(command)
    return Result(0, dry)
  try:
    done = subprocess.run(
      command,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
    )
  except FileNotFoundError:
    fail(f"{command[0]} is not installed, or not on PATH.")
  return Result(done.returncode, done.stdout.strip())


def together(
  commands: Sequence[Command],
  environments: Sequence[Mapping[str, str]] = (),
  *,
  stop: Callable[[], object] | None = None,
  grace: float = 90.0,
) -> list[int]:
  """Runs commands in parallel; each output line starts with a command's number.

  After one fails, the others have `grace` seconds to end by themselves. Then
  they are stopped. They are also stopped when this launcher is told to end.

  Args:
    commands: one command for each process.
    environments: variables that each process adds to the environment.
    stop: function that asks all processes to end; by default it sends SIGTERM.
    grace: seconds to wait after a failure, and again between `stop` and killing
      the local processes.

  Returns:
    Exit codes; 128 + n for a process that signal n ended.

  Raises:
    Stopped: this launcher was told to end. The processes have ended.
  """
  environments = environments or [{}] * len(commands)
  if dry_run():
    for command, added in zip(commands, environments, strict=True):
      assigned = [f"{key}={value}" for key, value in added.items()]
      show([*(["env", *assigned] if assigned else []), *command])
    return [0] * len(commands)
  processes: list[subprocess.Popen] = []
  readers = []

  def terminate() -> None:
    for process in processes:
      process.terminate()

  stopped = None
  try:
    for i, (command, added) in enumerate(
      zip(commands, environments, strict=True)
    ):
      process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | added,
        start_new_session=True,  # Ctrl-C reaches only the launcher.
      )
      processes.append(process)
      readers.append(threading.Thread(target=_copy, args=(i, process.stdout)))
      readers[-1].start()
    _wait(processes, until_failure=True)
    _wait(processes, grace)
  except FileNotFoundError as error:
    terminate()
    fail(f"{error.filename} is not installed, or not on PATH.")
  except Stopped as error:
    stopped = error
  finally:
    if any(process.poll() is None for process in processes):
      (stop or terminate)()
      _wait(processes, grace)
    for process in processes:
      process.kill()  # No effect on processes that have ended.
      process.wait()
    for reader in readers:
      reader.join()
  if stopped:
    raise stopped
  codes = [process.returncode for process in processes]
  return [128 - code if code < 0 else code for code in codes]


def _wait(
  processes: Sequence[subprocess.Popen],
  seconds: float = float("inf"),
  until_failure: bool = False,
) -> None:
  """Waits until all have ended, for `seconds` at most.

  With `until_failure`, it also returns after the first failure.
  """
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    codes = [process.poll() for process in processes]
    if None not in codes or (until_failure and any(codes)):
      return
    time.sleep(0.1)


def _copy(number: int, lines: Iterator[str]) -> None:
  for line in lines:
    print(f"[{number}] {line}", end="", flush=True)


def verdict(codes: Sequence[int]) -> int:
  """Combines the exit codes of a job's processes into one.

  Returns:
    0 if all succeeded. Otherwise the first code of an error that a restart does
    not fix, if there is one. Otherwise 143 if a process was terminated, else
    175; a restart may fix both.
  """
  lasting = [code for code in codes if code and not restarts(code)]
  if lasting or not any(codes):
    return (lasting or [0])[0]
  return TERMINATED if TERMINATED in codes else RESTART


def restarts(code: int) -> bool:
  """Whether a process with this exit code should be started again.

  That is the case after a signal (128 + n), when sslx.main asks for a restart
  (175), and after a lost connection (ssh's 255).
  """
  return code > 128


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """Turns the first SIGTERM, SIGINT or SIGHUP into `Stopped`.

  A second signal has its default effect and ends the process.
  """
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

  def stop(number, _):
    for other in numbers:
      signal.signal(other, signal.SIG_DFL)
    raise Stopped(number)

  before = {number: signal.signal(number, stop) for number in numbers}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
