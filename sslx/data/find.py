"""Finds image files: below a folder, by a pattern, or in a list.

Labels are names here; `files` makes numbers of them.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import NamedTuple

from sslx.config import ConfigError

EXTENSIONS = tuple("bmp gif jpeg jpg png ppm tif tiff webp".split())
# The path ends at the last image extension, so it may hold spaces.
_LINE = re.compile(rf"(.+\.(?:{'|'.join(EXTENSIONS)}))(?:\s+(\S.*))?", re.I)
_CHUNK = 1000  # paths of a list that a thread looks up at a time
_ARE = f"Images are files named .{', .'.join(EXTENSIONS)}."


class Found(NamedTuple):
  """Paths below `root`, the label of each, and all labels that there are."""

  root: str
  paths: list[str]
  labels: list[str] | None = None
  names: tuple[str, ...] | None = None


def in_folder(root: str, split: str, where: str) -> Found:
  """All images below a folder."""
  folder = os.path.normpath(os.path.join(root, split))
  if not os.path.isdir(folder):
    raise _no_split(root, f"{folder} is not a folder", split, where)
  with os.scandir(folder) as entries:
    entries = [e for e in entries if not e.name.startswith(".")]
  names = sorted(entry.name for entry in entries if entry.is_dir())
  top = [e.name for e in entries if _is_image(e.name) and not e.is_dir()]
  with futures.ThreadPoolExecutor() as pool:  # Network disks answer slowly.
    below = pool.map(lambda name: _walk(folder, name), names)
    paths = sorted(path for paths in below for path in paths)
  if not top and not paths:
    raise ConfigError(f"{where}: no images in {folder} or below. {_ARE}")
  if not paths:
    return Found(folder, sorted(top))
  if top:
    raise ConfigError(
      f"{where}: {folder} holds {len(top)} images at its top, such as"
      f" {min(top)!r}, and {len(paths)} in sub-folders, such as {paths[0]!r}."
      " Where there are classes, every image is in the sub-folder of its"
      " class: move those at the top into one, or away. To read all of them"
      " without labels, give a pattern with '**/*'."
    )
  return _by_folder(folder, paths, names)


def _by_folder(folder: str, paths: list[str], names: Iterable[str]) -> Found:
  labels = [path.partition("/")[0] for path in paths]
  return Found(folder, paths, labels, tuple(names or sorted(set(labels))))


def _walk(root: str, name: str) -> list[str]:
  """Paths of all images below a folder of `root`, relative to `root`."""
  paths, pending = [], [name]
  while pending:
    folder = pending.pop()
    with os.scandir(os.path.join(root, folder)) as entries:
      for entry in entries:
        if entry.name.startswith("."):
          continue
        path = f"{folder}/{entry.name}"
        if entry.is_dir():
          pending.append(path)
        elif _is_image(entry.name):
          paths.append(path)
  return paths


def by_pattern(root: str, split: str, where: str) -> Found:
  """All images that a pattern matches."""
  parts = split.split("/")
  wild = next(i for i, part in enumerate(parts) if "*" in part or "?" in part)
  folder = os.path.join(root, "/".join(parts[:wild]))
  if not os.path.isdir(folder):
    raise _no_split(root, f"{folder} is not a folder", split, where)
  found = glob.glob("/".join(parts[wild:]), root_dir=folder, recursive=True)
  paths = sorted({path for path in found if _is_image(path)})
  if not paths:
    raise ConfigError(
      f"{where}: the pattern matches {len(found)} names in {folder}, and none"
      f" is an image. {_ARE} All images below a folder are 'FOLDER/**/*'."
    )
  if not all("/" in path for path in paths):
    return Found(folder, paths)
  return _by_folder(folder, paths, ())


def in_list(root: str, split: str, where: str) -> Found:
  """The images that a text file lists."""
  file = os.path.join(root, split)
  if not os.path.isfile(file):
    raise _no_split(root, f"{file} is not a file", split, where)
  with open(file, encoding="utf-8-sig", errors="surrogateescape") as text:
    numbered = [(i, line.strip()) for i, line in enumerate(text, 1)]
  lines = [(i, line, _LINE.fullmatch(line)) for i, line in numbered if line]
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


def _is_image(name: str) -> bool:
  return os.path.splitext(name)[1][1:].lower() in EXTENSIONS
