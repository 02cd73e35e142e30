"""A part of a set, given by a list of file names, such as 1 % of ImageNet."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterable

import numpy as np

from sslx.config import ConfigError

# The lists of SimCLR (Chen et al. 2020, semi-supervised learning), by SHA-256:
# github.com/google-research/simclr, imagenet_subsets/1percent.txt and
# 10percent.txt.
OFFICIAL = {
  "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17": (
    "the official 1 % of ImageNet"
  ),
  "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091": (
    "the official 10 % of ImageNet"
  ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class List:
  """A list of file names, one per line.

  Attributes:
    path: path of the list.
    names: the names. A name is that of an image in its set, such as
      `cat/1.jpg`, or the last part of it, if only one image ends in it.
    sha256: SHA-256 of the file, in hexadecimal.
  """

  path: str
  names: tuple[str, ...]
  sha256: str

  def __str__(self) -> str:
    official = OFFICIAL.get(self.sha256)
    return (
      f"{os.path.basename(self.path)}{f', {official}' if official else ''}"
      f" (SHA-256 {self.sha256})"
    )

  def places(self, names: Iterable[str], where: str) -> np.ndarray:
    """Finds the listed images in a set.

    Args:
      names: the names of the set's images.
      where: what the set is, for messages.

    Returns:
      int64[n], the listed images' indices, in the order of the list.

    Raises:
      ConfigError: the list is empty; or an image is not in the set, is listed
        twice, or has a name that fits several images.
    """
    if not self.names:
      raise ConfigError(
        f"{self.path} is empty. Write the name of an image per line."
      )
    wanted = set(self.names)
    whole, last = {}, collections.defaultdict(list)
    example = None
    for i, name in enumerate(names):
      example = example or name
      if name in wanted:
        whole[name] = i
      part = name.rpartition("/")[2]
      if part != name and part in wanted:
        last[part].append(i)
    found = [[whole[x]] if x in whole else last[x] for x in self.names]
    self._check(found, f"{where} has names such as {example!r}")
    return np.array([place for (place,) in found], np.int64)

  def _check(self, found: list[list[int]], hint: str) -> None:
    pairs = list(zip(self.names, found, strict=True))
    absent = [name for name, places in pairs if not places]
    if absent:
      raise ConfigError(
        f"{self.path}: {len(absent):,} of {len(pairs):,} images are not in the"
        f" set, such as {', '.join(map(repr, absent[:5]))}; {hint}."
      )
    several = [name for name, places in pairs if len(places) > 1]
    if several:
      raise ConfigError(
        f"{self.path}: {len(several):,} names fit several images, such as"
        f" {several[0]!r}; {hint}. Write these names in full."
      )
    counts = collections.Counter(place for _, (place,) in pairs)
    twice = [name for name, (place,) in pairs if counts[place] > 1]
    if twice:
      raise ConfigError(
        f"{self.path} lists images twice, such as {twice[0]!r}. List each once."
      )


def read(path: str) -> List:
  """Reads a list; empty lines do not count.

  Raises:
    ConfigError: it cannot be read.
  """
  try:
    with open(path, "rb") as file:
      data = file.read()
  except OSError as error:
    raise ConfigError(
      f"{path} cannot be read: {error.strerror}. Give a text file with the file"
      " name of an image per line."
    ) from error
  text = data.decode("utf-8-sig", errors="backslashreplace")
  names = tuple(filter(None, map(str.strip, text.split("\n"))))
  return List(path, names, hashlib.sha256(data).hexdigest())
