"""Some images of a run's data, with their features by the run's network."""

from __future__ import annotations

import dataclasses

import numpy as np

from sslx.config import ConfigError
from sslx.data import loader, operations, sources
from sslx.data.sets import Arrays, Images
from sslx.features.extract import centre, extract
from sslx.weights.run import Run


@dataclasses.dataclass(frozen=True)
class Sample:
  """Images of a set in their evaluation view, in random order.

  Attributes:
    images: their pixels and labels, as a set of its own.
    split: the set that they are of, in words.
    names: names of the classes; None if there are no labels.
    indices: int[n], their numbers in the whole set.
    features: f32[n, d], the "final" features.
  """

  images: Arrays
  split: str
  names: tuple[str, ...] | None
  indices: np.ndarray
  features: np.ndarray

  def shown(self, i: int) -> np.ndarray:
    """Returns the RGB pixels of an image, uint8[h, w, 3]."""
    return operations.visible(self.images.images[i])

  def class_of(self, i: int) -> str | None:
    """Returns the name of an image's class; None without labels."""
    return None if self.names is None else self.name(self.images.labels[i])

  def name(self, label: int) -> str:
    """Returns the name of a label; some images of a set may have none, -1."""
    return self.names[label] if label >= 0 else "no label"


def take(run: Run, most: int) -> tuple[Sample, Sample]:
  """Takes samples of the test and of the training set, and encodes them.

  Without a test set, both are of the training set.

  Args:
    run: the network.
    most: the largest number of images of each.

  Raises:
    ConfigError: the data is not on this machine, or no image can be read.
  """
  # A report downloads nothing.
  source = dataclasses.replace(run.data.records, prepare=False)
  train = sources.load(source, "train")
  test = sources.load(source, "test", train.classes)
  bank = _sample(run, train, "training", most, seed=1)
  if test is None:
    return _sample(run, train, "training", most, seed=0), bank
  return _sample(run, test, "test", most, seed=0), bank


def _sample(
  run: Run, images: Images, split: str, most: int, seed: int
) -> Sample:
  order = np.random.default_rng(seed).permutation(len(images))[:most]
  pixels, labels = images.read(order)
  if not isinstance(images, Arrays):
    pixels, bad = loader.centres(
      pixels, images.channels, centre(run), run.data.exif
    )
    good = ~np.isin(np.arange(len(order)), list(bad))
    pixels, labels, order = pixels[good], labels[good], order[good]
  if not len(order):
    raise ConfigError(f"none of {most} {split} images can be decoded.")
  names = None
  if images.num_classes is not None:
    names = images.classes or tuple(map(str, range(images.num_classes)))
  labels = None if names is None else np.asarray(labels)
  taken = Arrays(pixels, labels, images.num_classes)
  features = extract(run, taken, batch_size=min(256, most)).features["final"]
  return Sample(taken, split, names, order, features)
