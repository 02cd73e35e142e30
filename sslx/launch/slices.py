"""TPU slices: the code that `pod` and `mig` share.

A slice is set up and used over ssh, in the same way on every host, through
`launch/worker.sh`.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shlex
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from sslx.launch import commands
from sslx.launch.commands import Command

ROOT = pathlib.Path(__file__).resolve().parents[2]

# States of a slice. FAILED: it will not become READY again.
ABSENT, WAITING, READY, FAILED = "absent", "waiting", "ready", "failed"


class Step(NamedTuple):
  """One resource of a slice, and how to make it.

  Attributes:
    exists: command that succeeds if the resource exists; None if `make` may be
      repeated.
    make: command that makes it.
    undo: command that deletes it; None if the deletion of another resource
      deletes it too.
  """

  exists: Command | None
  make: Command
  undo: Command | None


class State(NamedTuple):
  """The state of a slice: one of the four, and the cloud's own words."""

  state: str
  detail: str


class Slice(Protocol):
  """How to get a slice, and how to reach its hosts."""

  name: str

  def steps(self) -> list[Step]:
    """Its resources, in the order in which they are made."""

  def describe(self) -> Command:
    """The command that prints the state."""

  def parse_state(self, result: commands.Result) -> State:
    """The state, from the result of `describe`."""

  def hosts(self) -> list[str]:
    """The hosts of a slice that is ready."""

  def ssh(self, host: str, command: str) -> Command:
    """The command that runs a shell command on a host.

    Its exit code is that of the shell command, or 255 if the connection failed.
    """

  def scp(self, host: str, files: Sequence[str]) -> Command:
    """The command that copies files into the home directory of a host."""

  def flags(self, hosts: Sequence[str]) -> list[list[str]]:
    """Flags of sslx.main for each host, by which processes find each other."""


def create(where: Slice) -> tuple[list[Step], commands.Result]:
  """Makes the resources that do not exist yet; stops at the first failure.

  Returns:
    The steps that were made, and the result of the last command.
  """
  made, result = [], commands.Result(0, "")
  for step in where.steps():
    if step.exists and not commands.dry_run():
      if commands.ask(step.exists).code == 0:
        continue
    if not commands.dry_run():
      commands.say(shlex.join(step.make))
    result = commands.ask(step.make)
    if result.output:
      print(result.output, flush=True)
    if result.code:
      break
    made.append(step)
  return made, result


def delete(steps: Sequence[Step]) -> int:
  """Deletes the resources that exist, the last first.

  Returns:
    0 if all are deleted, else the exit code of a deletion that failed.
  """
  worst = 0
  for step in reversed([step for step in steps if step.undo]):
    if commands.dry_run() or commands.ask(step.exists).code == 0:
      worst = commands.run(step.undo) or worst
  return worst


def state(where: Slice) -> State:
  """Asks the cloud for the state of the slice."""
  return where.parse_state(commands.ask(where.describe(), dry="ACTIVE"))


def setup(where: Slice) -> int:
  """Copies the sources to every host and installs them; returns an exit code.

  The sources are those of HEAD, see `_archive`. A second call installs only
  what changed. A host with a run in progress keeps what it has.
  """
  with _archive(where.name) as archive:
    files = [archive, str(ROOT / "launch" / "worker.sh")]
    hosts = where.hosts()
    copied = commands.together([where.scp(host, files) for host in hosts])
    if any(copied):
      return commands.verdict(copied)
    install = ["bash", "worker.sh", "setup", os.path.basename(archive)]
    install.append("tpu,gcs")
    return commands.verdict(_everywhere(where, hosts, install))


def run(where: Slice, args: Sequence[str], before: str = "") -> int:
  """Runs sslx.main on every host and waits for the end; returns an exit code.

  A run outlives the connection. A second call waits for the run in progress.

  Args:
    where: the slice.
    args: arguments of sslx.main.
    before: shell command that runs on each host before each start.
  """
  hosts = where.hosts()
  started = []
  for host, flags in zip(hosts, where.flags(hosts), strict=True):
    main = ["python", "-m", "sslx.main", "--distributed", *flags, *args]
    if before:
      main = ["bash", "-ec", f"{before}\nexec {shlex.join(main)}"]
    remote = ["bash", "worker.sh", "run", where.name, *main]
    started.append(where.ssh(host, shlex.join(remote)))
  stop = ["bash", "worker.sh", "stop", where.name]
  codes = commands.together(
    started, stop=lambda: _everywhere(where, hosts, stop), grace=120
  )
  return commands.verdict(codes)


def each(where: Slice, verb: str) -> int:
  """Runs `worker.sh VERB NAME` on every host; returns the worst exit code."""
  remote = ["bash", "worker.sh", verb, where.name]
  return max(_everywhere(where, where.hosts(), remote))


def _everywhere(
  where: Slice, hosts: Sequence[str], remote: Sequence[str]
) -> list[int]:
  return commands.together([where.ssh(h, shlex.join(remote)) for h in hosts])


def check_sources() -> None:
  """Ends the launcher unless it runs from a checkout.

  The hosts get the files of the checkout.
  """
  if not (ROOT / "launch" / "worker.sh").exists():
    commands.fail(
      f"{ROOT} has no launch/worker.sh: sslx.launch sends its own files to the "
      "hosts. Run it from a checkout of sslx, not from an installed package."
    )


@contextlib.contextmanager
def _archive(name: str) -> Iterator[str]:
  """Makes a tar file of the sources for the hosts; yields its path.

  It holds the committed files, or all sources if the folder is not a git
  checkout.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join("DIR" if commands.dry_run() else folder, f"{name}.tar")
    if not (ROOT / ".git").exists():
      commands.say(f"{ROOT} is not a git checkout: hosts get all of its files")
      if not commands.dry_run():
        with tarfile.open(path, "w") as tar:
          for entry in sorted(ROOT.iterdir()):
            tar.add(entry, entry.name, filter=_is_source)
      yield path
      return
    git = ["git", "-C", str(ROOT)]
    dirty = commands.ask([*git, "status", "--porcelain"])
    if dirty.output:
      commands.say("changes that are not committed stay here: hosts get HEAD")
    made = commands.ask(
      [*git, "archive", "--format=tar", f"--output={path}", "HEAD"]
    )
    if made.code:
      commands.fail(f"git archive: {made.output}")
    yield path


def _is_source(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
  """Leaves out hidden files and files that were built for this machine."""
  name = os.path.basename(entry.name)
  built = name.endswith((".so", ".pyc", ".egg-info"))
  made = name in ("__pycache__", "build", "dist", "work_dirs")
  return None if built or made or name.startswith(".") else entry
