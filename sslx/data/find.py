"""Finds image files: below a folder, by a pattern, or in a list.

Labels are indices into names here; `files` turns them into classes. Files that
have an image's extension but cannot be read (see `formats`) are skipped and
reported. A set may have many millions of files, so no Python object is kept for
each.
"""

from __future__ import annotations

import array
import collections
import fnmatch
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from sslx.config import ConfigError
from sslx.data import formats
from sslx.data.paths import Paths

_CHUNK = 1000  # paths of a list that a thread looks up at a time
_SORTED = 1 << 16  # names of a folder held as Python strings at a time
_ARE = (
  "Images are files whose names end as those of a format that Pillow reads:"
  " .jpg, .JPEG, .png, .webp, .tif and so on."
)


class Found(NamedTuple):
  """Paths of images, their labels, and the names of the labels.

  Attributes:
    root: the folder that the paths are relative to.
    paths: paths of the images.
    labels: int32[n], indices into `names`, or None.
    names: the names of the labels, or None.
    unread: how many images cannot be read, and why; or "".
  """

  root: str
  paths: Paths
  labels: np.ndarray | None = None
  names: tuple[str, ...] | None = None
  unread: str = ""


def in_folder(root: str, split: str, where: str) -> Found:
  """Finds all images below a folder."""
  folder = os.path.normpath(os.path.join(root, split))
  if not os.path.isdir(folder):
    raise _no_split(root, f"{folder} is not a folder", split, where)
  paths, first, folders, unread = _scan(folder, ("**",))
  if not len(paths):
    also = f" There are {unread}." if unread else ""
    raise ConfigError(
      f"{where}: no images in {folder} or below that are read here.{also}"
      f" {_ARE}"
    )
  at_top = first < 0
  if at_top.all():
    return Found(folder, paths, unread=unread)
  if at_top.any():
    one, other = (
      os.fsdecode(paths[i]) for i in (at_top.argmax(), at_top.argmin())
    )
    raise ConfigError(
      f"{where}: {folder} holds {at_top.sum()} images at its top, such as"
      f" {one!r}, and {(~at_top).sum()} in sub-folders, such as {other!r}."
      " Where there are classes, every image is in the sub-folder of its"
      " class: move those at the top into one, or away. To read all of them"
      " without labels, give a pattern with '**/*'."
    )
  return Found(folder, paths, *_sorted(first, folders), unread)


def by_pattern(root: str, split: str, where: str) -> Found:
  """Finds all images that a pattern matches."""
  parts = split.split("/")
  wild = next(i for i, part in enumerate(parts) if "*" in part or "?" in part)
  folder = os.path.join(root, "/".join(parts[:wild]))
  if not os.path.isdir(folder):
    raise _no_split(root, f"{folder} is not a folder", split, where)
  pattern = tuple(part for part in parts[wild:] if part not in ("", "."))
  paths, first, folders, unread = _scan(folder, pattern)
  if not len(paths):
    also = f" There are {unread}." if unread else ""
    raise ConfigError(
      f"{where}: the pattern matches no image in {folder} that is read here."
      f"{also} {_ARE} All images below a folder are 'FOLDER/**/*'."
    )
  if (first < 0).any():
    return Found(folder, paths, unread=unread)
  used, labels = np.unique(first, return_inverse=True)
  names = [folders[i] for i in used]
  return Found(folder, paths, *_sorted(labels, names), unread)


def _sorted(
  labels: np.ndarray, names: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Sorts the names and renumbers the labels accordingly."""
  order = sorted(range(len(names)), key=names.__getitem__)
  place = np.empty(len(names), np.int32)
  place[order] = np.arange(len(names))
  return place[labels], tuple(names[i] for i in order)


class _Folder(NamedTuple):
  """A folder to search.

  Attributes:
    path: relative to the root; "" is the root itself.
    patterns: patterns for the paths below the folder, one string for each part
      of a path. "**" matches any number of folders. Case does not matter.
    jumps: real paths of the folders with the symbolic links that led here.
  """

  path: str
  patterns: frozenset[tuple[str, ...]]
  jumps: tuple[str, ...] = ()


def _scan(
  root: str, pattern: tuple[str, ...]
) -> tuple[Paths, np.ndarray, list[str], str]:
  """Finds the images below a folder that match a pattern, sorted by path.

  Returns:
    The paths; for each path the index of its top folder, int32[n], or -1 if it
    is in `root` itself; the top folders; and a summary of unread images.
  """
  others: collections.Counter[str] = collections.Counter()
  folders, pieces = [], []

  def below(folder):
    unread: collections.Counter[str] = collections.Counter()
    return Paths(formats.sieve(_files(root, folder), unread)), unread

  top = _level(root, _Folder("", frozenset({pattern})))
  # Threads, because a network file system has a high latency.
  with futures.ThreadPoolExecutor() as pool:
    for is_file, found in itertools.groupby(
      top, lambda found: isinstance(found, bytes)
    ):
      if is_file:
        pieces.append((-1, Paths(formats.sieve(found, others))))
        continue
      for folder in found:
        pieces.append((len(folders), pool.submit(below, folder)))
        folders.append(folder.path)
    for i, (number, piece) in enumerate(pieces):
      if number >= 0:
        paths, unread = piece.result()
        others.update(unread)
        pieces[i] = number, paths
  numbers = np.array([number for number, _ in pieces], np.int32)
  first = np.repeat(numbers, [len(paths) for _, paths in pieces])
  paths = Paths(itertools.chain.from_iterable(paths for _, paths in pieces))
  return paths, first, folders, formats.unread(others)


def _files(root: str, folder: _Folder) -> Iterator[bytes]:
  """Yields the paths of matching files below a folder, sorted."""
  for found in _level(root, folder):
    if isinstance(found, bytes):
      yield found
    else:
      yield from _files(root, found)


def _level(root: str, folder: _Folder) -> Iterator[bytes | _Folder]:
  """Yields matching files (paths) and folders to search, without recursion.

  Raises:
    ConfigError: a link points to a folder that contains it.
  """
  active, more = set(folder.patterns), set(folder.patterns)
  while more:  # "**" also matches no folder.
    more = {p[1:] for p in more if p[0] == "**" and len(p) > 1} - active
    active |= more
  tests = [(p, _fits(p[0])) for p in active]
  links = set()

  def names():
    with os.scandir(os.path.join(root, folder.path)) as entries:
      for entry in entries:
        fits = [p for p, fit in tests if fit(entry.name)]
        if fits and entry.is_dir():
          if entry.is_symlink():
            links.add(entry.name)
          yield entry.name + "/"  # It sorts like the paths below it.
        elif any(len(p) == 1 for p in fits):
          yield entry.name

  prefix = os.fsencode(os.path.join(folder.path, ""))
  for name in _in_order(names()):
    if not name.endswith(b"/"):
      yield prefix + name
      continue
    name = os.fsdecode(name[:-1])
    fits = {p for p, fit in tests if fit(name)}
    below = frozenset(p if p[0] == "**" else p[1:] for p in fits) - {()}
    path, jumps = os.path.join(folder.path, name), folder.jumps
    if below and name in links:
      jumps = (*jumps, os.path.realpath(os.path.join(root, folder.path)))
      _check_circle(os.path.join(root, path), jumps)
    if below:
      yield _Folder(path, below, jumps)


def _in_order(names: Iterator[str]) -> Iterator[bytes]:
  """Sorts names; holds only some of them as Python strings at a time."""
  chunks = []
  while chunk := [os.fsencode(x) for x in itertools.islice(names, _SORTED)]:
    chunks.append(np.array(chunk))
  if chunks:
    found = np.concatenate(chunks)
    found.sort()
    for start in range(0, len(found), _SORTED):
      yield from found[start : start + _SORTED].tolist()


@functools.cache
def _fits(part: str) -> Callable[[str], Any]:
  """A test of a name against one part of a pattern.

  A hidden name matches only if the part starts with a dot.
  """
  match = re.compile(fnmatch.translate(part), re.IGNORECASE).match
  if part[0] == ".":
    return match
  if not part.strip("*"):
    return lambda name: name[0] != "."
  return lambda name: name[0] != "." and match(name)


def _check_circle(link: str, jumps: tuple[str, ...]) -> None:
  target = os.path.realpath(link)
  if any(os.path.commonpath([target, jump]) == target for jump in jumps):
    raise ConfigError(
      f"{link} is a link to {target}, the folder that contains it: its images"
      " would be found without end. Remove the link."
    )


def in_list(root: str, split: str, where: str) -> Found:
  """Finds the images that a text file lists."""
  file = os.path.join(root, split)
  if not os.path.isfile(file):
    raise _no_split(root, f"{file} is not a file", split, where)
  # The path ends at the last image extension, so it may contain spaces.
  endings = "|".join(formats.endings())
  parse = re.compile(rf"(.+\.(?:{endings}))(?:\s+(\S.*))?", re.I).fullmatch
  paths, labels, numbers = Paths(), array.array("i"), {}
  # [number of lines, first line] without an image, and without a label.
  bad, bare = [0, ""], [0, ""]
  with open(file, encoding="utf-8-sig", errors="surrogateescape") as text:
    for i, line in enumerate(map(str.strip, text), 1):
      if not line:
        continue
      match = parse(line)
      if not match:
        bad = [bad[0] + 1, bad[1] or f"line {i}: {line[:80]!r}"]
        continue
      path, label = match.groups()
      paths.append(os.fsencode(path))
      if label is None:
        bare = [bare[0] + 1, bare[1] or f"line {i}"]
      else:
        labels.append(numbers.setdefault(label, len(numbers)))
  if bad[0]:
    raise ConfigError(
      f"{where}: {bad[0]} lines name no image, such as {bad[1]}. A line is"
      f" 'path' or 'path label'. {_ARE}"
    )
  if not len(paths):
    raise ConfigError(f"{where} is empty. Write the path of an image per line.")
  if bare[0] and labels:
    raise ConfigError(
      f"{where}: {bare[0]} of {len(paths)} lines have no label, such as"
      f" {bare[1]}. Give all of them one, or none."
    )
  others: collections.Counter[str] = collections.Counter()
  collections.deque(formats.sieve(paths, others), maxlen=0)
  if others:
    raise ConfigError(
      f"{where}: {sum(others.values())} of {len(paths)} lines name images that"
      f" are not read here: {formats.unread(others)}. Convert them, or leave"
      " them out."
    )
  _check_listed(root, paths, where)
  if not labels:
    return Found(root, paths)
  return Found(root, paths, *_sorted(np.array(labels), list(numbers)))


def _check_listed(root: str, paths: Paths, where: str) -> None:
  folder = os.fsencode(root)

  def missing(start):
    chunk = map(paths.__getitem__, range(len(paths))[start : start + _CHUNK])
    return [p for p in chunk if not os.path.exists(os.path.join(folder, p))]

  with futures.ThreadPoolExecutor(32) as pool:  # The threads wait for the disk.
    chunks = pool.map(missing, range(0, len(paths), _CHUNK))
    absent = [path for chunk in chunks for path in chunk]
  if absent:
    some = ", ".join(repr(os.fsdecode(path)) for path in absent[:5])
    raise ConfigError(
      f"{where}: {len(absent)} of {len(paths)} files do not exist, such as"
      f" {some}. Paths are relative to {root}."
    )


def _no_split(root: str, wrong: str, split: str, where: str) -> ConfigError:
  with os.scandir(root) as entries:
    names = [e.name for e in entries if e.is_dir() or e.name.endswith(".txt")]
  names = sorted(name for name in names if not name.startswith("."))
  hint = f" {root} has {', '.join(map(repr, names[:8])) or 'no sub-folders'}."
  if "[" in split:
    hint += " Only prepared sets have slices: python -m sslx.prepare --help."
  return ConfigError(
    f"{where}: {wrong}. Give a sub-folder, a pattern with * or ?, or a"
    f" .txt list of files.{hint}"
  )
