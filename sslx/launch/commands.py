"""Runs commands: the only file of `sslx.launch` that starts a program.

With DRY_RUN=1 in the environment commands are printed and not run.
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
  """This launcher was told to end, by the signal `number`."""

  def __init__(self, number: int):
    """Keeps the number of the signal."""
    super().__init__(f"stopped by {signal.Signals(number).name}")
    self.number = number


class Failure(Exception):
  """The cloud did not do or say what was expected; it may do so later."""


class Result(NamedTuple):
  """What a command printed, on both streams, and its exit code."""

  code: int
  output: str


def dry_run() -> bool:
  """Whether commands are shown rather than run."""
  return os.environ.get("DRY_RUN", "0") not in ("", "0")


def say(text: str) -> None:
  """A message of the launcher itself; stdout is for what commands print."""
  print(f"launch: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
  """Ends the launcher with an error that the user has to mend."""
  sys.exit(f"error: {text}")


def show(command: Command, stdin: str | None = None) -> None:
  """Prints a command as a shell would take it."""
  print(shlex.join(command), flush=True)
  if stdin is not None:
    print("".join(f"  | {line}\n" for line in stdin.splitlines()), end="")


def run(command: Command, stdin: str | None = None) -> int:
  """Runs a command, which writes where we write; returns its exit code."""
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
  """Runs a command for what it prints.

  Args:
    command: what to run.
    dry: what it is taken to print under DRY_RUN.
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
  """Runs commands at the same time, and marks their lines with their number.

  When one fails, the others have `grace` seconds to end by themselves; then, or
  when this launcher is told to end, they are stopped.

  Args:
    commands: one for each process.
    environments: what each adds to the environment.
    stop: asks all to end; by default by SIGTERM.
    grace: seconds; again after `stop`, before processes here are killed.

  Returns:
    Exit codes; 128 + n of one that was ended by signal n.

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
        start_new_session=True,  # Ctrl-C is for the launcher, which stops all.
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
      process.kill()  # No-op on those that ended.
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
  """Waits for the end of all, or for the first failure."""
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
  """One exit code for a job, of those of its processes.

  Returns:
    0 if all ended well; the code of one with an error that a restart does not
    mend, if there is one; else 143 if one was terminated, and 175 for all
    other ends, which a restart may mend.
  """
  lasting = [code for code in codes if code and not restarts(code)]
  if lasting or not any(codes):
    return (lasting or [0])[0]
  return TERMINATED if TERMINATED in codes else RESTART


def restarts(code: int) -> bool:
  """Whether a process that ended so should be started again.

  So it is after a signal (128 + n), when sslx.main asks for it (175), and after
  a lost connection (ssh's 255).
  """
  return code > 128


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """Turns the first SIGTERM, SIGINT or SIGHUP into `Stopped`.

  A second one ends the process, as if nobody listened.
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
