"""A lock on a workdir, so that two runs never write to the same one.

On a file system the lock is `flock`, which the kernel releases when the process
ends, for any reason. Remote stores, and some file systems, have no `flock`.
There the holder renews a lease: a file that changes every `RENEW_EVERY`
seconds. A run that finds a lease watches it for `WATCH` seconds. If the lease
changes, its holder is alive. If not, its holder is assumed dead.

Limits: on a store, two runs that start within a second of each other may both
take the lease; the run whose lease was replaced stops. A network file system
may apply `flock` only within each host.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from etils import epath

from sslx import storage
from sslx.errors import WorkdirError

RENEW_EVERY = 20.0  # seconds
WATCH = 70.0  # seconds; three renewals

_NO_FLOCK = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)


class Lock:
  """Holds a workdir until `release`, or the end of the process.

  Attributes:
    token: identifies this holder; stored in the lock file.
  """

  def __init__(self, path: epath.Path, note: Callable[[str], None]):
    """Takes the lock.

    Args:
      path: path of the lock file.
      note: called with messages about a wait, or about a dead holder's lock.

    Raises:
      WorkdirError: another run holds it.
      StorageError: the file cannot be read or written.
    """
    self.token = secrets.token_hex(8)
    self._path, self._note = path, note
    self._owner = {
      "program": "sslx",
      "host": socket.gethostname(),
      "pid": os.getpid(),
      "started": datetime.datetime.now().astimezone().isoformat("T", "seconds"),
      "token": self.token,
    }
    self._file, self._renewals = None, 0
    if storage.is_remote(path) or not self._flock():
      self._take_lease()

  def _flock(self) -> bool:
    """Takes the kernel's lock; returns False if there is no `flock`."""
    with storage.accessing(self._path):
      flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
      self._file = os.fdopen(os.open(self._path, flags, 0o644), "r+b")
      try:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        self._file.close()
        raise self._held(owner(self._path)) from None
      except OSError as error:
        self._file.close()
        self._file = None
        if error.errno in _NO_FLOCK:
          return False
        raise
      self._file.truncate(0)
      self._file.write(json.dumps(self._owner).encode())
      self._file.flush()
    return True

  def _take_lease(self) -> None:
    """Checks that no other holder renews its lease, then writes our own."""
    found = owner(self._path)
    if found:
      who = _who(found)
      self._note(
        f"{self._path} names {who}. Watching for {WATCH:.0f} s whether it is"
        " alive; delete the file to go on at once."
      )
      end = time.monotonic() + WATCH
      while time.monotonic() < end:
        time.sleep(min(2.0, WATCH / 10))
        if (now := owner(self._path)) != found:
          if now is None:
            break  # Released, or deleted.
          raise self._held(now)
      else:
        self._note(f"{who} did not renew its lock: it is assumed dead")
    self.renew(first=True)

  def renew(self, *, first: bool = False) -> None:
    """Renews a lease; does nothing if the kernel keeps the lock.

    Raises:
      WorkdirError: the workdir is no longer this run's.
      StorageError: the file cannot be read or written.
    """
    if self._file:
      return
    if not first:
      self.check()
    self._renewals += 1
    lease = {**self._owner, "renewals": self._renewals}
    storage.write(self._path, json.dumps(lease))

  def check(self) -> None:
    """Checks that the workdir is still this run's.

    Raises:
      WorkdirError: it was deleted, moved, or taken by another run.
      StorageError: the lock file cannot be read.
    """
    found = owner(self._path)
    if found is None:
      raise WorkdirError(
        f"{self._path} is gone: somebody has deleted or moved"
        f" {self._path.parent} while this run wrote to it. What was in it may"
        " be lost. Start anew, or move it back and start again."
      )
    if found.get("token") != self.token:
      raise WorkdirError(
        f"{_who(found)} has taken {self._path.parent}, so this run stops. It"
        " assumed that this run was dead, or started at the same moment."
      )

  def release(self, *, forget: bool = False) -> None:
    """Releases the lock.

    Args:
      forget: whether to delete the lock file as well; if it stays, it marks the
        folder as a run's.

    Raises:
      StorageError: the file cannot be deleted.
    """
    if self._file:
      if forget:
        with storage.accessing(self._path, "deleted"):
          self._path.unlink()
      self._file.close()
    elif (owner(self._path) or {}).get("token") == self.token:
      with storage.accessing(self._path, "deleted"):
        self._path.unlink(missing_ok=True)

  def _held(self, found: dict[str, Any] | None) -> WorkdirError:
    return WorkdirError(
      f"{self._path.parent} is in use by {_who(found or {})}. Two runs in one"
      " workdir would destroy each other's checkpoints. Wait for its end, stop"
      " it, or give another --workdir."
    )


def owner(path: epath.Path) -> dict[str, Any] | None:
  """Reads the last holder from a lock file.

  Returns:
    The holder; None if there is no file, or it is not a lock file of sslx.

  Raises:
    StorageError: the file exists and cannot be read.
  """
  with storage.accessing(path, "read"):
    try:
      text = path.read_bytes()
    except FileNotFoundError:
      return None
  try:
    found = json.loads(text)
  except (ValueError, RecursionError):
    return None
  ours = isinstance(found, dict) and found.get("program") == "sslx"
  return found if ours else None


def _who(found: dict[str, Any]) -> str:
  return (
    f"process {found.get('pid', '?')} on {found.get('host', '?')}, started"
    f" {found.get('started', '?')}"
  )
