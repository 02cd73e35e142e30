"""Encodes whole sets: features of every image, in the order of the set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sslx import parallel
from sslx.data import loader, operations
from sslx.data.pipeline import Data
from sslx.data.sets import Arrays, Images
from sslx.methods.base import Method
from sslx.parallel import Partitioner


class Features(NamedTuple):
  """Features of a whole set, in its order; each batch is sharded over devices.

  Attributes:
    rows: f32[n, B, d], by name of the features.
    labels: int32[n, B], -1 for padding and for images that cannot be decoded.
    bad: number of images that cannot be decoded, in all processes.
  """

  rows: dict[str, jax.Array]
  labels: jax.Array
  bad: int = 0


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads whole sets to the devices, in their own order, in padded batches.

  Attributes:
    data: config section `data`: the evaluation view, and the share of images
      that may be bad.
    partitioner: devices and shardings.
    wanted: images to read at once, over all devices.
  """

  data: Data
  partitioner: Partitioner
  wanted: int

  @property
  def batch_size(self) -> int:
    """B, images of a batch: `wanted`, rounded up to a multiple of devices."""
    n = self.partitioner.num_devices
    return -(-self.wanted // n) * n

  def __call__(
    self,
    images: Images,
    limit: int | None = None,
    on_bad: Callable[[int, str], None] = lambda index, reason: None,
  ) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields uint8[B, h, w, c], and int32[B] labels as the loader has them.

    Args:
      images: the set.
      limit: read only this many images.
      on_bad: called with the index of each image of this process that cannot
        be decoded, and the reason.
    """
    for batch in loader.evaluation_batches(
      images,
      self.batch_size,
      self.partitioner.local_rows(self.batch_size),
      self.data.centre,
      limit,
      exif=self.data.exif,
      on_bad=on_bad,
    ):
      yield self.partitioner.put(batch)


class Encoder:
  """Encodes sets with one function."""

  def __init__(
    self,
    function: Callable[[Any, jax.Array], dict[str, jax.Array]],
    reader: Reader,
  ):
    """Prepares the function; compiles nothing yet.

    Args:
      function: maps weights and uint8[B, h, w, c] to f32[B, d] by name.
      reader: reads the sets.
    """
    self._reader, self._told = reader, set()
    partitioner = reader.partitioner
    stacked = partitioner.batches
    self._function = jax.jit(function, out_shardings=partitioner.batch)
    self._empty = jax.jit(
      lambda n, batch: jax.tree.map(
        lambda x: jnp.zeros((n, *x.shape), x.dtype), batch
      ),
      static_argnums=0,
      out_shardings=stacked,
    )
    # Each batch goes to its place in the whole at once: to stack them all at
    # the end would take twice the memory.
    self._set = jax.jit(
      lambda whole, batch, i: jax.tree.map(
        lambda a, x: lax.dynamic_update_index_in_dim(a, x, i, 0), whole, batch
      ),
      donate_argnums=0,
      out_shardings=stacked,
    )

  def __call__(
    self,
    weights: Any,
    images: Images,
    limit: int | None = None,
    note: Callable[[str], None] = print,
  ) -> Features:
    """Encodes a set; all processes must call it together.

    Args:
      weights: the function's first argument.
      images: the set.
      limit: encode only this many images.
      note: called with a message about each image that cannot be decoded; only
        the first time that the encoder meets it.

    Raises:
      ConfigError: more images cannot be decoded than `config.data.max_bad`
        allows.
    """
    data, bad = self._reader.data, []
    total = min(len(images), limit or len(images))

    def on_bad(index: int, reason: str) -> None:
      bad.append(images.name(index))
      if bad[-1] not in self._told:
        self._told.add(bad[-1])
        note(
          f"{bad[-1]} cannot be decoded ({reason}); the evaluation is without"
          " it"
        )
      data.check_bad(len(bad), total, bad[-1])

    whole = None
    batches = self._reader(images, limit, on_bad)
    for i, (pixels, labels) in enumerate(batches):
      batch = self._function(weights, pixels), labels
      if whole is None:
        whole = self._empty(-(-total // self._reader.batch_size), batch)
      whole = self._set(whole, batch, i)
    partitioner = self._reader.partitioner
    counts = parallel.to_host(partitioner.of_each_process((len(bad),)))
    count = int(np.sum(counts))
    data.check_bad(count, total, bad[-1] if bad else None)
    return Features(*whole, count)


def of_method(method: Method, names: Iterable[str], reader: Reader) -> Encoder:
  """Returns an encoder whose weights are parameters and BatchNorm statistics.

  Args:
    method: encodes images; see `Method.of_network` for the weights.
    names: the features to keep.
    reader: reads the sets.
  """
  mean, std = reader.data.mean, reader.data.std

  def encode(network, pixels):
    images = operations.normalize(pixels, mean, std)
    features = method.encode(*network, images)
    return {name: features[name] for name in names}

  return Encoder(encode, reader)


class _Unlabelled(Images):
  """A set that hides its labels."""

  def __init__(self, images: Images):
    self._images, self.channels = images, images.channels

  def __len__(self) -> int:
    return len(self._images)

  def read(
    self, indices: Sequence[int]
  ) -> tuple[Sequence[bytes | np.ndarray], np.ndarray]:
    """See `Images`; the label is -1."""
    images, labels = self._images.read(indices)
    return images, np.full_like(labels, -1)

  def name(self, index: int) -> str:
    """See `Images`."""
    return self._images.name(index)


def unlabelled(images: Images) -> Images:
  """Returns the same images as a set without labels."""
  if isinstance(images, Arrays):
    return dataclasses.replace(images, labels=None, num_classes=None)
  return _Unlabelled(images)
