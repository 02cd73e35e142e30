"""A prepared TFDS set as the source of a copy with smaller images."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from sslx.config import ConfigError
from sslx.data import builders, records, sources
from sslx.data.sets import Images


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared(Images):
  """The images of a split, named by their index.

  Attributes:
    records: the records of the split.
    split: the name of the split.
  """

  records: records.Records
  split: str

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
    return f"{self.split}-{index:08}"


def open_splits(
  name: str, out: str
) -> tuple[str, dict[str, Prepared], tuple[str, ...] | None]:
  """Opens the splits of a set; prepares the set first if it does not exist.

  Args:
    name: name of the set.
    out: TFDS directory.

  Returns:
    The folder of the set, its splits, and the names of its classes or None.

  Raises:
    ConfigError: the set does not exist and cannot be prepared, is damaged, or
      has small images, which are held in memory.
  """
  builder = builders.prepared(sources.Source(name, out), builders.ARGUMENTS)
  splits = {}
  for split in builder.info.splits:
    found = sources.load(sources.Source(name, out, train=split), "train")
    if not isinstance(found, records.Records):
      raise ConfigError(
        f"The images of {name!r} are small and held in memory: leave out"
        " --short_side and --raw."
      )
    splits[split] = Prepared(found, split)
  labelled = any(s.num_classes is not None for s in splits.values())
  classes = tuple(builder.info.features["label"].names) if labelled else None
  return os.fspath(builder.data_path), splits, classes
