"""Files of a run, on a local disk or in a remote store such as gs://.

Paths are `etils.epath` paths. A store has no append and no fsync: files are
written whole there, and appear whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from etils import epath

from sslx.errors import StorageError

# Scheme of a URL: the protocol of fsspec, and the extra that brings it.
_STORES = {"gs": ("gcs", "gcs"), "s3": ("s3", "s3")}


def path(text: str | os.PathLike, name: str) -> epath.Path:
  """The absolute path that a flag or key gives.

  Args:
    text: a local path, or a URL of a store: gs://bucket/folder, s3://...
    name: of the flag or key, for errors.

  Raises:
    StorageError: it is empty, the scheme is unknown, or the package that reads
      the store is not installed.
  """
  text = os.fspath(text)
  if not text:
    raise StorageError(f"{name} is empty; give a folder.")
  scheme, is_url, _ = text.partition("://")
  if not is_url:
    return epath.Path(os.path.abspath(os.path.expanduser(text)))
  if scheme not in _STORES:
    known = ", ".join(f"{x}://" for x in _STORES)
    raise StorageError(
      f"{name} is {text!r}; {scheme}:// is not a store that sslx writes to. Use"
      f" {known} or a local folder."
    )
  protocol, extra = _STORES[scheme]
  try:
    import fsspec

    fsspec.get_filesystem_class(protocol)
  except ImportError as error:
    raise StorageError(
      f"{name} is {text!r}, which needs a package that is not installed ("
      f"{error}). Install it: pip install 'sslx[{extra}]'."
    ) from error
  return epath.Path(text)


def is_remote(path: epath.Path) -> bool:
  """Whether a path is in a remote store."""
  return "://" in os.fspath(path)


@contextlib.contextmanager
def accessing(path: epath.Path, doing: str = "written") -> Iterator[None]:
  """Turns an error of the file system, or of the store, into a StorageError.

  Args:
    path: of the file or folder, for the message.
    doing: what fails, as in "cannot be written".

  Raises:
    StorageError: with the reason in one line.
  """
  try:
    yield
  except StorageError:
    raise
  except Exception as error:
    # Of a store, any client's error may come.
    if not isinstance(error, OSError) and not is_remote(path):
      raise
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    raise StorageError(
      f"{path} cannot be {doing}: {reason or type(error).__name__}."
    ) from error


def make_folder(path: epath.Path) -> None:
  """Makes a folder and those above it; nothing to do if it is there.

  Raises:
    StorageError: it cannot be made; there is a file in its place.
  """
  if not is_remote(path) and path.exists() and not path.is_dir():
    raise StorageError(f"{path} is a file; give a folder.")
  with accessing(path, "made"):
    path.mkdir(parents=True, exist_ok=True)


def write(path: epath.Path, data: str | bytes) -> None:
  """Writes a file, atomically: a reader, and a kill, see the old or the new.

  A symbolic link in its place is replaced, not written through.

  Raises:
    StorageError: it cannot be written; the old file is as it was.
  """
  data = data.encode() if isinstance(data, str) else data
  if is_remote(path):
    with accessing(path):
      return path.write_bytes(data)
  new = f"{path}.new"
  with accessing(path):
    with contextlib.suppress(FileNotFoundError):
      os.unlink(new)  # Left by a kill.
    with open(new, "xb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(new, path)
    _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
  """Makes a rename last through a power failure."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
