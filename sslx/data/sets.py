"""What a set of images is: in memory, or encoded and read on demand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sslx.data.fingerprint import Fingerprint, digest


class Images:
  """A set of images. A subclass defines `__len__` and `read`.

  It can be sent to a worker process. Its images are read batch by batch, and
  views are cut on the host; only those of `Arrays` are cut on the device.

  Attributes:
    num_classes: number of classes; None if the images have no labels.
    classes: names of the classes, if they are known.
    channels: of the pixels; 3 is RGB.
    notes: messages about the set, to be shown to the user once.
  """

  num_classes: int | None = None
  classes: tuple[str, ...] | None = None
  channels: int = 3
  notes: Sequence[str] = ()

  def __len__(self) -> int:
    """Number of images."""
    raise NotImplementedError

  def read(
    self, indices: Sequence[int]
  ) -> tuple[Sequence[bytes | np.ndarray], np.ndarray]:
    """Images, encoded or as pixels uint8[h, w, c], and labels, int32[n].

    The label is -1 where there is none. An image that cannot be read is b"".
    """
    raise NotImplementedError

  def name(self, index: int) -> str:
    """Where an image is, for messages."""
    return f"image {index}"

  def file_name(self, index: int) -> str:
    """The image's name in the set."""
    return str(index)

  def fingerprint(self) -> Fingerprint:
    """What tells the set from others, besides its numbers.

    It is computed without reading an image of a set on disk.
    """
    return {}


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays(Images):
  """A set in memory.

  Attributes:
    images: uint8[n, h, w, c]; RGB if c is 3.
    labels: int32[n] in [0, num_classes), or None if the images have no labels.
    num_classes: number of classes; None if the images have no labels.
  """

  images: np.ndarray
  labels: np.ndarray | None
  num_classes: int | None

  @property
  def channels(self) -> int:
    """See `Images`."""
    return self.images.shape[-1]

  def __len__(self) -> int:
    return len(self.images)

  def read(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8[n, h, w, c], and labels, int32[n], -1 if there are none."""
    if self.labels is None:
      return self.images[indices], np.full(len(indices), -1, np.int32)
    return self.images[indices], self.labels[indices]

  def fingerprint(self) -> Fingerprint:
    """Fingerprint of the images and labels."""
    arrays = {"pixels": self.images, "labels": self.labels}
    return {
      name: digest([np.ascontiguousarray(array)])
      for name, array in arrays.items()
      if array is not None
    }


class Part(Images):
  """Some images of a set, `chosen` by their indices, int64[n]."""

  def __init__(self, images: Images, chosen: np.ndarray):
    self._images, self._chosen = images, chosen
    self.num_classes, self.classes = images.num_classes, images.classes
    self.channels = images.channels

  def __len__(self) -> int:
    return len(self._chosen)

  def read(
    self, indices: Sequence[int]
  ) -> tuple[Sequence[bytes | np.ndarray], np.ndarray]:
    """See `Images`."""
    return self._images.read(self._chosen[np.asarray(indices)])

  def name(self, index: int) -> str:
    """See `Images`."""
    return self._images.name(int(self._chosen[index]))

  def file_name(self, index: int) -> str:
    """See `Images`."""
    return self._images.file_name(int(self._chosen[index]))


def evenly(images: Images, count: int | None) -> Images:
  """Takes images that are spread evenly over a set, the same each time.

  The set is cut into `count` parts of equal length, and one image of each part
  is taken. Its place differs from part to part: of a set whose classes take
  turns, every n-th image might be of one class.

  Args:
    images: the set.
    count: number of images; None, or more than there are, takes the whole set.
  """
  if count is None or count >= len(images):
    return images
  ends = np.arange(count + 1, dtype=np.int64) * len(images) // count
  shares = np.arange(count) * ((5**0.5 - 1) / 2) % 1  # The golden ratio's.
  chosen = ends[:-1] + (shares * np.diff(ends)).astype(np.int64)
  if isinstance(images, Arrays):
    labels = None if images.labels is None else images.labels[chosen]
    return dataclasses.replace(
      images, images=images.images[chosen], labels=labels
    )
  return Part(images, chosen)
