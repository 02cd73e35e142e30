"""A memory-efficient list of paths."""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator


class Paths:
  """A list of paths in one byte array, with an overhead of 8 bytes per path.

  A list of Python strings has an overhead of 57 bytes per path. A NumPy array
  takes the length of the longest path for every path.
  """

  def __init__(self, paths: Iterable[bytes] = ()):
    """Stores paths, in the file system's encoding, in the given order."""
    self._text = bytearray()
    self._ends = array.array("q")
    for path in paths:
      self.append(path)

  def append(self, path: bytes) -> None:
    """Appends a path."""
    self._text += path
    self._ends.append(len(self._text))

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, index: int) -> bytes:
    start = self._ends[index - 1] if index else 0
    return bytes(self._text[start : self._ends[index]])

  def __iter__(self) -> Iterator[bytes]:
    return map(self.__getitem__, range(len(self)))
