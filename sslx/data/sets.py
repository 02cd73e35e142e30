"""Sets of images: in memory, or encoded and read on demand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from sslx.data.fingerprint import Fingerprint, digest


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
  """A set in memory.

  Attributes:
    images: uint8[n, h, w, c]; RGB if c is 3.
    labels: int32[n] in [0, num_classes), or None if the images have no labels.
    num_classes: number of classes; None if the images have no labels.
  """

  images: np.ndarray
  labels: np.ndarray | None
  num_classes: int | None

  def __len__(self) -> int:
    return len(self.images)

  def fingerprint(self) -> Fingerprint:
    """Fingerprint of the images and labels."""
    arrays = {"pixels": self.images, "labels": self.labels}
    return {
      name: digest([np.ascontiguousarray(array)])
      for name, array in arrays.items()
      if array is not None
    }


class Encoded(Protocol):
  """A set of encoded images that are read on demand.

  It can be sent to a worker process. `num_classes` is None if the images have
  no labels. If the images are not RGB, an attribute `channels` says how many
  channels their pixels have.
  """

  num_classes: int | None

  def __len__(self) -> int:
    """Number of images."""

  def read(
    self, indices: Sequence[int]
  ) -> tuple[list[bytes | np.ndarray], np.ndarray]:
    """Images, encoded or as pixels uint8[h, w, c], and labels, int32[n].

    The label is -1 where there is none. An image that cannot be read is b"".
    """

  def name(self, index: int) -> str:
    """Where an image is, for messages."""

  def fingerprint(self) -> Fingerprint:
    """The fingerprint of the set, computed without reading an image."""


def channels_of(images: Arrays | Encoded) -> int:
  """Channels of the pixels of a set."""
  if isinstance(images, Arrays):
    return images.images.shape[-1]
  return getattr(images, "channels", 3)
