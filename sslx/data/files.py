"""A set of image files, given by a folder, a glob pattern or a list file.

The classes of a folder are its sub-folders, as in torchvision's ImageFolder; a
flat folder has no labels. A scan only lists names and opens no file, so it
takes seconds for a million files.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable
from concurrent import futures
from typing import Literal

import numpy as np

from sslx.config import ConfigError
from sslx.data import find, formats, listed
from sslx.data.fingerprint import Fingerprint, digest
from sslx.data.paths import Paths
from sslx.data.sets import Images

Classes = tuple[str, ...]

_CHUNK = 1000  # files whose sizes a thread reads at a time
_TEST_FOLDERS = ("val", "validation", "test")
_MAX_CLASSES = 1_000_000  # maximum for integer labels; more is a mistake


@dataclasses.dataclass(frozen=True, eq=False)
class Files(Images):
  """A set of image files.

  Attributes:
    root: the folder that the paths are relative to.
    paths: paths in the file system's encoding.
    labels: int32[n] in [0, num_classes), or None.
    classes: the names of the classes, or None if the images have no labels.
    notes: messages about the set, to be shown to the user once.
  """

  root: str
  paths: Paths
  labels: np.ndarray | None
  classes: Classes | None
  notes: list[str]

  @property
  def num_classes(self) -> int | None:
    """Number of classes; None if the images have no labels."""
    return None if self.classes is None else len(self.classes)

  def __len__(self) -> int:
    return len(self.paths)

  def name(self, index: int) -> str:
    """The path of an image for messages; always printable."""
    path = os.path.join(os.fsencode(self.root), self.paths[index])
    return path.decode(errors="backslashreplace")

  def file_name(self, index: int) -> str:
    """The path relative to `root`, the image's name in a prepared set."""
    return self.paths[index].decode(errors="backslashreplace")

  def fingerprint(self) -> Fingerprint:
    """Fingerprint of the paths below `root`, the labels and the file sizes."""
    root = os.fsencode(self.root)

    def sizes(start: int) -> bytes:
      rows = range(len(self.paths))[start : start + _CHUNK]
      paths = (os.path.join(root, self.paths[i]) for i in rows)
      return np.array([_size(path) for path in paths]).tobytes()

    names = (b"%s\0" % path for path in self.paths)
    starts = range(0, len(self.paths), _CHUNK)
    found = {
      "names": digest(names),
      "sizes": digest(_pool().map(sizes, starts)),
    }
    if self.labels is not None:
      found["labels"] = digest([self.labels])
    return found

  def read(self, indices: Iterable[int]) -> tuple[list[bytes], np.ndarray]:
    """Reads some images.

    Args:
      indices: [n].

    Returns:
      The encoded images, b"" for a file that cannot be read, and their labels,
      int32[n], -1 where there are none.
    """
    indices = np.fromiter(indices, np.int64)
    root = os.fsencode(self.root)
    paths = [os.path.join(root, self.paths[i]) for i in indices]
    # In parallel, because a network file system has a high latency per file.
    images = list((_pool().map if len(paths) > 1 else map)(_read, paths))
    if self.labels is None:
      return images, np.full(len(indices), -1, np.int32)
    return images, self.labels[indices]


@functools.cache
def _pool() -> futures.ThreadPoolExecutor:
  return futures.ThreadPoolExecutor(16, thread_name_prefix="read")


def _size(path: bytes) -> int:
  """Size of a file in bytes; -1 if it cannot be read."""
  try:
    return os.stat(path).st_size
  except OSError:
    return -1


def _read(path: bytes) -> bytes:
  try:
    with open(path, "rb") as file:
      return file.read()
  except OSError:
    return b""


def open_files(
  data_dir: str | None,
  split: str | None,
  role: Literal["train", "test"],
  classes: Classes | None = None,
  *,
  key: str = "config.data.data_dir",
) -> Files | None:
  """Finds the files of a split, sorted by path or in the order of a list.

  Args:
    data_dir: folder that contains `split`.
    split: one of
      - a sub-folder;
      - a case-insensitive pattern with `*` or `?`, where `**` matches any
        depth. The classes are the folders that match the first wildcard, if
        every image is in such a folder;
      - a .txt file with lines `path` or `path label`, where the label is the
        number or the name of a class; or with lines that are only the last part
        of a path, such as `n01440764_10074.JPEG`, which are found, with their
        classes, in the folder that would be read without a list;
      - None. For "train": the sub-folder `train`, or `data_dir` itself if it
        has none. For "test": the first of `val`, `validation`, `test`. Case
        does not matter.
    role: whether `split` is the train or the test split.
    classes: for "test", the classes of the train split, which number the
      labels. If None, the test split has no labels.
    key: how the user gave `data_dir`, for messages.

  Returns:
    The files, or None if there is no test split.

  Raises:
    ConfigError: there are no such files, they cannot be read, their layout is
      ambiguous, or the test split has a class that the train split does not.
  """
  if data_dir is None:
    raise ConfigError(f"{key} is not set. Give the folder of the images.")
  where = f"{key}={data_dir!r}"
  where += "" if split is None else f", config.data.{role}={split!r}"
  root = os.path.expanduser(data_dir)
  try:
    if not os.path.isdir(root):
      state = "is a file" if os.path.exists(root) else "does not exist"
      raise ConfigError(f"{where} {state}. Give the folder of the images.")
    if split is None:
      split = _default_split(root, role, where)
      if split is None:
        return None
    if "*" in split or "?" in split:
      found = find.by_pattern(root, split, where)
    elif split.endswith(".txt"):
      found = _in_folders(root, split, role, where)
      if found is None:
        found = find.in_list(root, split, where)
        if found.names and all(map(str.isdecimal, found.names)):
          found = _name_integers(found, where, classes)
    else:
      found = find.in_folder(root, split, where)
  except OSError as error:
    raise ConfigError(
      f"{where} cannot be read: {error}. Give read access, or another folder."
    ) from error
  return _number(found, where, role, classes)


def _in_folders(
  root: str, split: str, role: str, where: str
) -> find.Found | None:
  """Finds the images of a list of mere file names; None for other lists.

  The first line tells.
  """
  path = os.path.join(root, split)
  if not os.path.isfile(path):
    return None
  with open(path, encoding="utf-8-sig", errors="replace") as lines:
    first = next(filter(None, map(str.strip, lines)), "")
  endings = tuple(f".{ending}" for ending in formats.endings())
  if "/" in first or not first.lower().endswith(endings):
    return None
  if os.path.exists(os.path.join(root, first)):
    return None
  folder = _default_split(root, role, where)
  if folder is None:
    return None
  found = find.in_folder(root, folder, where)
  if found.labels is None:
    return None
  names = (path.decode(errors="backslashreplace") for path in found.paths)
  places = listed.read(path).places(names, found.root)
  paths = Paths(found.paths[i] for i in places)
  return found._replace(paths=paths, labels=found.labels[places], unread="")


def _default_split(root: str, role: str, where: str) -> str | None:
  with os.scandir(root) as entries:
    folders = sorted(entry.name for entry in entries if entry.is_dir())
  train, *tests = (
    [folder for folder in folders if folder.lower() == name]
    for name in ("train", *_TEST_FOLDERS)
  )
  tests = next(filter(None, tests), [])
  for found, key in ((train, "train"), (tests, "test")):
    if len(found) > 1 and key == role:
      raise ConfigError(
        f"{where} has the sub-folders {' and '.join(map(repr, found))}. Set"
        f" config.data.{key} to one of them."
      )
  test = tests[0] if tests else None
  if role == "test":
    return test
  if train:
    return train[0]
  if test is not None:  # Otherwise the test folder would become a class.
    raise ConfigError(
      f"{where} has a sub-folder {test!r} but no 'train'. Name it train, or set"
      " config.data.train to its name; '.' is the whole folder."
    )
  return "."


def _name_integers(
  found: find.Found, where: str, train_classes: Classes | None
) -> find.Found:
  """Maps integer labels to the train split's classes, or to "0", "1", ..."""
  if train_classes is not None and set(found.names) <= set(train_classes):
    return found
  top = max(map(int, found.names))
  if train_classes is None and top >= _MAX_CLASSES:
    raise ConfigError(
      f"{where}: labels go up to {top}. Integer labels are numbers of classes,"
      " from 0. If these are not, write names."
    )
  known = dict(enumerate(train_classes or map(str, range(top + 1))))
  if train_classes is not None:
    names = (known.get(int(number), number) for number in found.names)
    return found._replace(names=tuple(names))
  labels = np.array([*map(int, found.names)], np.int32)[found.labels]
  return found._replace(labels=labels, names=tuple(known.values()))


def _number(
  found: find.Found, where: str, role: str, train_classes: Classes | None
) -> Files:
  """Makes the set; labels are numbered by the classes of the train split."""
  paths, notes = found.paths, []
  if found.unread:
    notes.append(f"{where}: not read are {found.unread}.")
  if found.labels is None:
    return Files(found.root, paths, None, None, notes)
  if role == "test" and train_classes is None:
    note = f"{where}: its labels are not used; the train split has none."
    return Files(found.root, paths, None, None, [*notes, note])
  classes = found.names if role == "train" else train_classes
  unknown = sorted({*found.names} - {*classes})
  if unknown:
    raise ConfigError(
      f"{where} has {len(unknown)} classes that the train split does not"
      f" have, such as {', '.join(map(repr, unknown[:5]))}. Give the classes of"
      " both splits the same names, or leave these out."
    )
  numbers = {name: i for i, name in enumerate(classes)}
  labels = np.array([numbers[name] for name in found.names], np.int32)
  labels = labels[found.labels]
  empty = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
  if len(empty) and role == "train":
    some = ", ".join(repr(classes[i]) for i in empty[:5])
    notes.append(
      f"{where}: {len(empty)} of {len(classes)} classes have no images, such"
      f" as {some}. They keep their numbers."
    )
  if len(classes) == 1:
    notes.append(
      f"{where}: {classes[0]!r} is the only class; an accuracy says nothing."
    )
  return Files(found.root, paths, labels, classes, notes)
