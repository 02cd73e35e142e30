"""Finds image files: below a folder, by a pattern, or in a list.

Labels are names here; `files` makes numbers of them. What is an image by its
name, but is not read here (`formats`), is passed over and told of.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from sslx.config import ConfigError
from sslx.data import formats

_CHUNK = 1000  # paths of a list that a thread looks up at a time
_ARE = (
  "Images are files whose names end as those of a format that Pillow reads:"
  " .jpg, .JPEG, .png, .webp, .tif and so on."
)


class Found(NamedTuple):
  """Paths below `root`, the label of each, and all labels that there are.

  `unread` says how many images there are that are not read, and why; or "".
  """

  root: str
  paths: list[str]
  labels: list[str] | None = None
  names: tuple[str, ...] | None = None
  unread: str = ""


def in_folder(root: str, split: str, where: str) -> Found:
  """All images below a folder."""
  folder = os.path.normpath(os.path.join(root, split))
  if not os.path.isdir(folder):
    raise _no_split(root, f"{folder} is not a folder", split, where)
  with os.scandir(folder) as entries:
    entries = [e for e in entries if not e.name.startswith(".")]
  names = sorted(entry.name for entry in entries if entry.is_dir())
  top = [e.name for e in entries if not e.is_dir()]
  with futures.ThreadPoolExecutor() as pool:  # Network disks answer slowly.
    walk = lambda name: list(_files(folder, name, {("**",)}))
    below = pool.map(walk, names)
    paths = [path for paths in below for path in paths]
  top, unread_top = formats.parted(top)
  paths, unread = formats.parted(paths)
  unread = formats.unread(unread_top + unread)
  if not top and not paths:
    also = f" There are {unread}." if unread else ""
    raise ConfigError(
      f"{where}: no images in {folder} or below that are read here.{also}"
      f" {_ARE}"
    )
  if not paths:
    return Found(folder, top, unread=unread)
  if top:
    raise ConfigError(
      f"{where}: {folder} holds {len(top)} images at its top, such as"
      f" {min(top)!r}, and {len(paths)} in sub-folders, such as {paths[0]!r}."
      " Where there are classes, every image is in the sub-folder of its"
      " class: move those at the top into one, or away. To read all of them"
      " without labels, give a pattern with '**/*'."
    )
  return _by_folder(folder, paths, names, unread)


def _by_folder(
  folder: str, paths: list[str], names: Iterable[str], unread: str
) -> Found:
  labels = [path.partition("/")[0] for path in paths]
  names = tuple(names or sorted(set(labels)))
  return Found(folder, paths, labels, names, unread)


def _files(
  root: str,
  folder: str,
  patterns: set[tuple[str, ...]],
  jumps: tuple[str, ...] = (),
) -> Iterator[str]:
  """Paths of the files below a folder that a pattern fits, each once.

  Args:
    root: what the paths are relative to.
    folder: below `root`; "" is `root` itself.
    patterns: what fits each part of the path below `folder`; "**" fits any
      number of folders. Capitals are as good as small letters.
    jumps: where links were followed on the way here.

  Raises:
    ConfigError: a link leads back to a folder that it is in.
  """
  active, more = set(patterns), set(patterns)
  while more:  # "**" also fits none.
    more = {p[1:] for p in more if p[0] == "**" and len(p) > 1} - active
    active |= more
  tests = [(p, _fits(p[0])) for p in active]
  with os.scandir(os.path.join(root, folder)) as entries:
    entries = list(entries)
  for entry in entries:
    fits = [p for p, fit in tests if fit(entry.name)]
    path = f"{folder}/{entry.name}" if folder else entry.name
    if fits and entry.is_dir():
      below = {p if p[0] == "**" else p[1:] for p in fits} - {()}
      on = jumps
      if below and entry.is_symlink():
        on = (*jumps, os.path.realpath(os.path.join(root, folder)))
        _check_circle(os.path.join(root, path), on)
      if below:
        yield from _files(root, path, below, on)
    elif any(len(p) == 1 for p in fits):
      yield path


@functools.cache
def _fits(part: str) -> Callable[[str], Any]:
  """Whether a part of a pattern fits a name; a hidden one must be meant."""
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
      f"{link} is a link to {target}, which it is in: the images would be found"
      " again and again. Remove the link."
    )


def by_pattern(root: str, split: str, where: str) -> Found:
  """All images that a pattern matches."""
  parts = split.split("/")
  wild = next(i for i, part in enumerate(parts) if "*" in part or "?" in part)
  folder = os.path.join(root, "/".join(parts[:wild]))
  if not os.path.isdir(folder):
    raise _no_split(root, f"{folder} is not a folder", split, where)
  pattern = tuple(part for part in parts[wild:] if part not in ("", "."))
  found = list(_files(folder, "", {pattern}))
  paths, unread = formats.parted(found)
  unread = formats.unread(unread)
  if not paths:
    also = f" There are {unread}." if unread else ""
    raise ConfigError(
      f"{where}: the pattern matches {len(found)} files in {folder}, and none"
      f" is an image that is read here.{also} {_ARE} All images below a folder"
      " are 'FOLDER/**/*'."
    )
  if not all("/" in path for path in paths):
    return Found(folder, paths, unread=unread)
  return _by_folder(folder, paths, (), unread)


def in_list(root: str, split: str, where: str) -> Found:
  """The images that a text file lists."""
  file = os.path.join(root, split)
  if not os.path.isfile(file):
    raise _no_split(root, f"{file} is not a file", split, where)
  with open(file, encoding="utf-8-sig", errors="surrogateescape") as text:
    numbered = [(i, line.strip()) for i, line in enumerate(text, 1)]
  # The path ends at the last ending of an image, so it may hold spaces.
  endings = "|".join(formats.endings())
  parse = re.compile(rf"(.+\.(?:{endings}))(?:\s+(\S.*))?", re.I).fullmatch
  lines = [(i, line, parse(line)) for i, line in numbered if line]
  if not lines:
    raise ConfigError(f"{where} is empty. Write the path of an image per line.")
  bad = [f"line {i}: {line[:80]!r}" for i, line, match in lines if not match]
  if bad:
    raise ConfigError(
      f"{where}: {len(bad)} lines name no image, such as {bad[0]}. A line is"
      f" 'path' or 'path label'. {_ARE}"
    )
  bare = [i for i, _, match in lines if match[2] is None]
  if 0 < len(bare) < len(lines):
    raise ConfigError(
      f"{where}: {len(bare)} of {len(lines)} lines have no label, such as line"
      f" {bare[0]}. Give all of them one, or none."
    )
  paths = [match[1] for *_, match in lines]
  _, unread = formats.parted(paths)
  if unread:
    raise ConfigError(
      f"{where}: {len(unread)} of {len(paths)} lines name images that are not"
      f" read here: {formats.unread(unread)}. Convert them, or leave them out."
    )
  _check_listed(root, paths, where)
  if bare:
    return Found(root, paths)
  labels = [match[2] for *_, match in lines]
  return Found(root, paths, labels, tuple(sorted(set(labels))))


def _check_listed(root: str, paths: Sequence[str], where: str) -> None:
  def missing(start):
    chunk = paths[start : start + _CHUNK]
    return [p for p in chunk if not os.path.exists(os.path.join(root, p))]

  with futures.ThreadPoolExecutor(32) as pool:  # It waits for the disk.
    chunks = pool.map(missing, range(0, len(paths), _CHUNK))
    absent = [path for chunk in chunks for path in chunk]
  if absent:
    raise ConfigError(
      f"{where}: {len(absent)} of {len(paths)} files do not exist, such as"
      f" {', '.join(map(repr, absent[:5]))}. Paths are relative to {root}."
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
