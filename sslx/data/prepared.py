"""A prepared TFDS set as the source of a smaller one."""

from __future__ import annotations

import dataclasses
import os
from concurrent import futures

import numpy as np

from sslx.config import ConfigError
from sslx.data import builders, records, sources
from sslx.data.paths import Paths
from sslx.data.sets import Images

_CHUNK = 1000  # records whose names a thread reads at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared(Images):
  """The images of a split.

  Attributes:
    records: the records of the split.
    split: the name of the split.
    names: the file names in the records; None names images by their index.
  """

  records: records.Records
  split: str
  names: Paths | None = None

  @property
  def num_classes(self) -> int | None:
    """Number of classes; None if the images have no labels."""
    return self.records.num_classes

  def __len__(self) -> int:
    return len(self.records)

  def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """See `sets.Images`."""
    return self.records.read(indices)

  def name(self, index: int) -> str:
    """See `sets.Images`."""
    return self.records.name(index)

  def file_name(self, index: int) -> str:
    """See `sets.Images`."""
    if self.names is not None:
      return self.names[index].decode()
    return f"{self.split}-{index:08}"

  def with_names(self) -> Prepared:
    """Returns the split with its file names, for which it reads all records.

    A damaged record keeps its index as its name.
    """

    def name(index: int) -> str:
      try:
        return self.records.file_name(index)
      except RuntimeError:
        return self.file_name(index)

    rows = range(len(self))
    chunks = [rows[i : i + _CHUNK] for i in rows[::_CHUNK]]
    with futures.ThreadPoolExecutor(16) as pool:  # They wait for the disk.
      parts = pool.map(lambda chunk: [name(i).encode() for i in chunk], chunks)
      names = Paths(x for part in parts for x in part)
    return dataclasses.replace(self, names=names)


def open_splits(
  name: str, out: str, named: bool = False
) -> tuple[str, dict[str, Prepared], tuple[str, ...] | None]:
  """Opens the splits of a set; prepares the set first if it does not exist.

  Args:
    name: name of the set.
    out: TFDS directory.
    named: whether images have the file names of their records.

  Returns:
    The folder of the set, its splits, and the names of its classes or None.

  Raises:
    ConfigError: the set does not exist and cannot be prepared, is damaged, has
      small images, which are held in memory, or lacks the names asked for.
  """
  builder = builders.prepared(sources.Source(name, out), builders.ARGUMENTS)
  if named and "file_name" not in builder.info.features:
    raise ConfigError(f"The images of {name!r} have no file names to list.")
  splits = {}
  for split in builder.info.splits:
    found = sources.load(sources.Source(name, out, train=split), "train")
    if not isinstance(found, records.Records):
      raise ConfigError(
        f"The images of {name!r} are small and held in memory: leave out"
        " --short_side, --raw and --only."
      )
    images = Prepared(found, split)
    splits[split] = images.with_names() if named else images
  labelled = any(s.num_classes is not None for s in splits.values())
  classes = tuple(builder.info.features["label"].names) if labelled else None
  return os.fspath(builder.data_path), splits, classes
