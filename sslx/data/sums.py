"""Checksums of the files of a prepared set, in its `SHA256SUMS`.

`sha256sum --check SHA256SUMS` can read the file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from concurrent import futures

FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\n]+)\n")


def of_file(path: str) -> str:
  """The SHA-256 of a file, in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: str, known: Mapping[str, str] | None = None) -> None:
  """Writes the checksums of all files of a folder.

  Args:
    folder: the folder of the set.
    known: checksums that were computed when files were written, by file name.
  """
  known = known or {}
  names = sorted(_files(folder))
  taken = _of_files(folder, [name for name in names if name not in known])
  lines = [f"{known.get(name) or taken[name]}  {name}\n" for name in names]
  path = os.path.join(folder, FILE)
  with open(f"{path}.partial", "w") as file:
    file.writelines(lines)
    file.flush()
    os.fsync(file.fileno())
  os.replace(file.name, path)


def read(folder: str) -> dict[str, str] | None:
  """Reads the checksums, by file name; None if the set has none.

  Raises:
    ValueError: the file of checksums is damaged.
  """
  path = os.path.join(folder, FILE)
  try:
    with open(path, newline="") as file:
      text = file.read()
  except FileNotFoundError:
    return None
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not text") from error
  lines = text.splitlines(keepends=True)
  found = [_LINE.fullmatch(line) for line in lines]
  if not found or None in found:
    line = (found + [None]).index(None) + 1
    raise ValueError(f"{path} is damaged in line {line}")
  return {match[2]: match[1] for match in found}


def problems(folder: str, sums: Mapping[str, str]) -> list[str]:
  """Lists differences from the checksums; reads every file completely."""
  there = _files(folder)
  taken = _of_files(folder, [name for name in sums if name in there])
  found = []
  for name, sha256 in sums.items():
    path = os.path.join(folder, name)
    if name not in there:
      found.append(f"{path} is missing, and {FILE} lists it")
    elif taken[name] != sha256:
      found.append(f"{path} has changed since it was written ({FILE})")
  extra = sorted(there - sums.keys())
  return found + [
    f"{os.path.join(folder, name)} is not in {FILE}" for name in extra
  ]


def _files(folder: str) -> set[str]:
  with os.scandir(folder) as entries:
    return {entry.name for entry in entries if entry.is_file()} - {FILE}


def _of_files(folder: str, names: list[str]) -> dict[str, str]:
  paths = [os.path.join(folder, name) for name in names]
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return dict(zip(names, pool.map(of_file, paths), strict=True))
