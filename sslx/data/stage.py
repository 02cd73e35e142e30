"""Copies a prepared set from a shared folder or a bucket to this host.

The copy is made in `<version>.incomplete` next to its final folder, and renamed
when it is complete and has been checked. `progress/staging.json` records the
source and its files, so that an interrupted copy can be resumed.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

from sslx.config import ConfigError
from sslx.data import check, shards

_PLAN = "progress/staging.json"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Staged(NamedTuple):
  """A staged set.

  Attributes:
    folder: the folder of the set, `TARGET/name/version`.
    files: number of files.
    num_bytes: size of all files.
    copied: bytes that this call copied; None if the set already existed.
  """

  folder: str
  files: int
  num_bytes: int
  copied: int | None


class _File(NamedTuple):
  """A file of the set: name, size in bytes, and MD5 if the store knows it."""

  name: str
  size: int
  md5: str | None


def stage(
  name: str,
  source: str,
  target: str,
  workers: int,
  progress: Callable[[int, int], None],
) -> Staged:
  """Copies a set to this host, or resumes an interrupted copy.

  Several processes of a host may call this: one copies, the others wait.

  Args:
    name: name of the set: "imagenet2012", "name/config", "name:1.0.0". Without
      a version, the newest version is used.
    source: TFDS directory, a path or a URL such as gs://bucket/tfds.
    target: TFDS directory on this host.
    workers: number of files that are copied at a time.
    progress: called repeatedly with the bytes present and the total.

  Raises:
    ConfigError: the set does not exist; the store cannot be read with the
      installed packages; there is too little disk space; or the copy is
      damaged.
  """
  path, _, version = name.partition(":")
  if not re.fullmatch(r"\w+(/[\w.-]+)?", path):
    raise ConfigError(f"NAME={name!r} is not like 'name' or 'name:1.0.0'.")
  # A complete copy needs no access to the store: a host may restart without it.
  there = _there(os.path.join(target, path), version)
  if there is not None:
    sizes = [entry.stat().st_size for entry in os.scandir(there)]
    return Staged(there, len(sizes), sum(sizes), None)
  fs, root = _open(source)
  remote, version = _find(fs, source, root, path, version)
  files = _list(fs, remote)
  folder = os.path.join(target, path, version)
  with shards.writing(folder, OSError):
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with _claim(folder):
      if os.path.exists(folder):  # Copied by the previous holder of the claim.
        return Staged(folder, len(files), sum(f.size for f in files), None)
      copied = _copy(
        fs, remote, f"{folder}.incomplete", files, workers, progress
      )
      os.rename(f"{folder}.incomplete", folder)
  return Staged(folder, len(files), sum(f.size for f in files), copied)


def _there(folder: str, version: str) -> str | None:
  """Path of the staged set of this version, or of the newest; None if none."""
  with contextlib.suppress(FileNotFoundError):
    versions = _newest_last(os.listdir(folder))
    found = [v for v in versions if version in ("", v)]
    return os.path.join(folder, found[-1]) if found else None
  return None


def _newest_last(names: list[str]) -> list[str]:
  versions = [name for name in names if re.fullmatch(r"\d+\.\d+\.\d+", name)]
  return sorted(versions, key=lambda v: [int(n) for n in v.split(".")])


def _open(source: str) -> tuple[Any, str]:
  """The file system of a path or URL, and the path on it."""
  import fsspec  # Imported here because it takes a quarter of a second.

  try:
    return fsspec.core.url_to_fs(source)
  except ImportError as error:
    scheme = source.partition("://")[0]
    extra = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}.get(scheme)
    advice = f" pip install 'sslx[{extra}]'" if extra else f" {error}"
    raise ConfigError(
      f"--from={source!r}: reading {scheme}:// takes another package:{advice}"
    ) from error
  except ValueError as error:
    raise ConfigError(f"--from={source!r}: {error}") from error


def _find(
  fs: Any, source: str, root: str, name: str, version: str
) -> tuple[str, str]:
  """Path of the set in the store, and its version."""
  folder = f"{root.rstrip('/')}/{name}"
  try:
    found = [
      path.rstrip("/").rpartition("/")[2] for path in fs.ls(folder, False)
    ]
  except FileNotFoundError as error:
    raise ConfigError(
      f"--from={source!r} has no set {name!r}: {folder} does not exist."
    ) from error
  except Exception as error:  # Stores raise many kinds of errors.
    raise ConfigError(
      f"--from={source!r} cannot be read: {type(error).__name__}: {error}"
    ) from error
  versions = _newest_last(found)
  if version not in ("", *versions) or not versions:
    raise ConfigError(
      f"--from={source!r} has no {name!r}"
      f"{f' of version {version}' if version else ''} that is prepared to its"
      f" end; in {folder} there is {', '.join(sorted(found)) or 'nothing'}."
    )
  version = version or versions[-1]
  return f"{folder}/{version}", version


def _list(fs: Any, remote: str) -> list[_File]:
  fs.invalidate_cache()
  found = [
    _File(entry["name"].rpartition("/")[2], entry["size"], _md5(entry))
    for entry in fs.ls(remote, True)
    if entry["type"] == "file"
  ]
  return sorted(found)


def _md5(entry: dict[str, Any]) -> str | None:
  """The MD5 of a file in hexadecimal, or None if the store does not know it."""
  # Google stores an MD5, unless the object was composed of parts.
  if "md5Hash" in entry:
    return base64.b64decode(entry["md5Hash"]).hex()
  tag = str(entry.get("ETag", "")).strip('"')
  # Amazon's ETag is an MD5, unless the upload was in parts or is encrypted.
  return tag if re.fullmatch("[0-9a-f]{32}", tag) else None


@contextlib.contextmanager
def _claim(folder: str) -> Iterator[None]:
  """Locks the folder; waits while another process writes it."""
  parent, name = os.path.split(folder)
  with open(os.path.join(parent, f".{name}.lock"), "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # Released when the process ends.
    yield


def _copy(
  fs: Any,
  remote: str,
  folder: str,
  files: list[_File],
  workers: int,
  progress: Callable[[int, int], None],
) -> int:
  """Copies missing files and checks all; returns the number of bytes copied."""
  plan = {"source": fs.unstrip_protocol(remote), "files": files}
  plan = json.loads(json.dumps(plan))
  plan_path = os.path.join(folder, _PLAN)
  if os.path.exists(folder):
    try:
      with open(plan_path) as file:
        same = json.load(file) == plan
    except (OSError, ValueError):  # Killed before the first file.
      same = False
    if not same:
      shutil.rmtree(folder)
  os.makedirs(os.path.dirname(plan_path), exist_ok=True)
  with open(plan_path, "w") as file:
    json.dump(plan, file)
  # A file gets its final name only when it is complete.
  for name in os.listdir(folder):
    if name.endswith(".partial"):
      os.unlink(os.path.join(folder, name))
  todo = [f for f in files if not os.path.exists(os.path.join(folder, f.name))]
  total = sum(f.size for f in files)
  left = sum(f.size for f in todo)
  free = shutil.disk_usage(folder).free
  if left > free:
    raise ConfigError(
      f"{folder}: {left / 2**30:.1f} GiB are to be copied and"
      f" {free / 2**30:.1f} GiB are free. Make room, or give another --stage."
    )
  lock, done = threading.Lock(), total - left
  stop = threading.Event()

  def copy(file: _File) -> None:
    nonlocal done
    if stop.is_set():
      return
    _copy_file(fs, remote, folder, file)
    with lock:
      done += file.size

  pool = futures.ThreadPoolExecutor(workers, "stage")
  try:
    # The largest first, so that all workers finish at about the same time.
    order = sorted(todo, key=lambda f: -f.size)
    waiting = {pool.submit(copy, file) for file in order}
    while waiting:
      finished, waiting = futures.wait(waiting, 0.2, futures.FIRST_COMPLETED)
      for future in finished:
        future.result()
      progress(done, total)
  finally:
    stop.set()
    pool.shutdown(cancel_futures=True)
  checked = check.check(folder, compare=True, sample=True)
  if checked.problems:
    raise ConfigError(check.message(folder, checked.problems))
  shutil.rmtree(os.path.dirname(plan_path))
  return left


def _copy_file(fs: Any, remote: str, folder: str, file: _File) -> None:
  path = os.path.join(folder, file.name)
  partial = f"{path}.partial"
  try:
    fs.get_file(f"{remote}/{file.name}", partial)
  except Exception as error:  # Stores raise many kinds of errors.
    if getattr(error, "errno", None) in _NO_ROOM:
      raise
    raise ConfigError(
      f"{remote}/{file.name} cannot be read: {type(error).__name__}: {error}."
      " What is copied is kept: run the same command again to go on."
    ) from error
  size = os.path.getsize(partial)
  if size != file.size:
    raise ConfigError(
      f"{remote}/{file.name} has {file.size} bytes, and {size} were copied. Run"
      " the same command again to go on."
    )
  if file.md5:
    with open(partial, "rb") as copied:
      found = hashlib.file_digest(copied, "md5").hexdigest()
    if found != file.md5:
      raise ConfigError(
        f"{remote}/{file.name} was copied with errors: its MD5 is {found}, not"
        f" {file.md5}. Run the same command again to go on."
      )
  os.replace(partial, path)
