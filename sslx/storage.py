"""Files of a run, on a local disk or in a remote store such as gs://.

Paths are `etils.epath` paths. A store has no append and no fsync: files are
written as a whole, and become visible as a whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from etils import epath

from sslx.errors import StorageError

# URL scheme -> fsspec's protocol, and the pip extra of sslx that installs it.
_STORES = {"gs": ("gcs", "gcs"), "s3": ("s3", "s3")}


def path(text: str | os.PathLike, name: str) -> epath.Path:
  """Converts the value of a flag or key to an absolute path.

  Args:
    text: a local path, or a URL of a store: gs://bucket/folder, s3://...
    name: name of the flag or key, for errors.

  Raises:
    StorageError: the text is empty, the scheme is unknown, or the package for
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
  """Returns whether a path is in a remote store."""
  return "://" in os.fspath(path)


@contextlib.contextmanager
def accessing(path: epath.Path, doing: str = "written") -> Iterator[None]:
  """Turns an error of the file system, or of the store, into a StorageError.

  Args:
    path: path of the file or folder, for the message.
    doing: the action that fails, as in "cannot be written".

  Raises:
    StorageError: with the reason in one line.
  """
  try:
    yield
  except StorageError:
    raise
  except Exception as error:
    # The client of a store may raise any error.
    if not isinstance(error, OSError) and not is_remote(path):
      raise
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    raise StorageError(
      f"{path} cannot be {doing}: {reason or type(error).__name__}."
    ) from error


def make_folder(path: epath.Path) -> None:
  """Makes a folder and its parents, if they do not exist.

  Raises:
    StorageError: it cannot be made, or there is a file in its place.
  """
  if not is_remote(path) and path.exists() and not path.is_dir():
    raise StorageError(f"{path} is a file; give a folder.")
  with accessing(path, "made"):
    path.mkdir(parents=True, exist_ok=True)


def write(path: epath.Path, data: str | bytes) -> None:
  """Writes a file atomically: readers see the old file or the new one.

  This also holds after a kill. A symbolic link in the file's place is replaced,
  not followed.

  Raises:
    StorageError: it cannot be written; the old file is unchanged.
  """
  data = data.encode() if isinstance(data, str) else data
  if is_remote(path):
    with accessing(path):
      return path.write_bytes(data)
  new = f"{path}.new"
  with accessing(path):
    with contextlib.suppress(FileNotFoundError):
      os.unlink(new)  # Left behind by a kill.
    with open(new, "xb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(new, path)
    _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
  """Makes a rename survive a power failure."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
