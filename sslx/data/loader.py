"""Makes batches on the host: reads images, and cuts those of varying size.

A batch is a pure function of its number, so every thread, worker process and
host computes the same one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from sslx.config import ConfigError
from sslx.data import crops
from sslx.data import views as views_lib
from sslx.data.ahead import Ahead
from sslx.data.order import Order
from sslx.data.sets import Arrays, Images
from sslx.data.views import Centre, Slot, View

# The seed's stream for the cuts; `order` has other streams.
_CUTS = 0x63757473
# If more consecutive images fail to decode, the cause is not a damaged image.
_NEIGHBOURS = 100


class HostBatch(NamedTuple):
  """One Grain element.

  Attributes:
    arrays: `label`, int32[b], -1 where there is none; `index`, int32[b], the
      number of each image in the set, and for a replaced image that of the
      image in its place; and either `views`, a tuple of
      uint8[b, *view.shape(c)] with one array per slot, or `image`,
      uint8[b, h, w, c]. If a slot is shuffled, also `place`, int32[b], the
      example of the global batch in each row of the shuffled slot; `back`,
      int32[b], the global row of the shuffled slot that holds each example;
      and, if there is `image`, `shuffled_image`.
    bad: (index, reason) of each image that was replaced.
  """

  arrays: dict[str, Any]
  bad: tuple[tuple[int, str], ...]


def shapes(
  images: Images,
  batch_size: int,
  views: tuple[View, ...],
  slots: tuple[Slot, ...],
) -> dict[str, Any]:
  """ShapeDtypeStructs of `HostBatch.arrays`; reads no image."""
  struct = lambda shape, dtype: jax.ShapeDtypeStruct(
    (batch_size, *shape), dtype
  )
  kinds = views_lib.each(views)
  arrays = {name: struct((), np.int32) for name in ("label", "index")}
  shuffled = any(slot.shuffled for slot in slots)
  if shuffled:
    arrays |= {name: struct((), np.int32) for name in ("place", "back")}
  if isinstance(images, Arrays):
    names = ("image", "shuffled_image") if shuffled else ("image",)
    shape = images.images.shape[1:]
    arrays |= {name: struct(shape, np.uint8) for name in names}
  else:
    shapes = (kinds[s.view].shape(images.channels) for s in slots)
    arrays["views"] = tuple(struct(shape, np.uint8) for shape in shapes)
  return arrays


@dataclasses.dataclass(frozen=True)
class Gather:
  """Makes this process's rows of a batch from images in memory.

  Attributes:
    images: the set.
    order: the order of the examples.
    rows: int[b], the rows of each global batch that this process loads.
    slots: the arrays that the method receives.
  """

  images: Arrays
  order: Order
  rows: np.ndarray
  slots: tuple[Slot, ...]

  def __call__(self, batch: int) -> HostBatch:
    indices = self.order[batch]
    mine = indices[self.rows]
    images, labels = self.images.read(mine)
    arrays = {
      "image": images,
      "label": labels,
      "index": mine.astype(np.int32),
    }
    shuffled = _shuffled(self.order, batch, self.rows, self.slots)
    if shuffled:
      moved = indices[shuffled["place"]]
      arrays |= {"shuffled_image": self.images.images[moved], **shuffled}
    return HostBatch(arrays, ())


@dataclasses.dataclass(frozen=True)
class CutViews:
  """Makes this process's rows of a batch from encoded images.

  Each image is decoded once, even if several slots use it in different rows.

  Attributes:
    images: the set.
    order: the order of the examples.
    rows: int[b], the rows of each global batch that this process loads.
    views: the views to cut from each image.
    slots: the arrays that the method receives.
    threads: number of threads that decode and cut.
    exif: whether to apply the EXIF orientation.
  """

  images: Images
  order: Order
  rows: np.ndarray
  views: tuple[View, ...]
  slots: tuple[Slot, ...]
  threads: int
  exif: bool = True

  def __call__(self, batch: int) -> HostBatch:
    """Reads, decodes and cuts the images of a batch."""
    mine, b = self.rows, len(self.rows)
    shuffled = _shuffled(self.order, batch, self.rows, self.slots)
    # For each slot: the example of the global batch in each of its rows.
    held = [shuffled["place"] if s.shuffled else mine for s in self.slots]
    places = np.unique(np.concatenate([mine, *held]))
    row_of = [dict(zip(x.tolist(), range(b), strict=True)) for x in held]

    indices = self.order[batch][places]
    encoded, labels = self.images.read(indices)
    opened = [crops.readable(data, self.exif) for data in encoded]
    sizes = {i: picture.size for i, picture in enumerate(opened) if picture}
    known = places[np.fromiter(sizes, np.int64)]
    drawn = self.cuts(batch, known, list(sizes.values()))
    cuts = dict(zip(sizes, drawn, strict=True))
    kinds = views_lib.each(self.views)
    shapes = [kinds[s.view].shape(self.images.channels) for s in self.slots]
    outs = [np.empty((b, *shape), np.uint8) for shape in shapes]

    def cut(i: int) -> list[tuple[int, str]]:
      """Cuts one image into all its rows; returns the images it replaced."""
      targets = [[] for _ in kinds]
      for slot, rows, out in zip(self.slots, row_of, outs, strict=True):
        row = rows.get(int(places[i]))
        if row is not None:
          # Single pictures: [n, h, w, c], one or nine or another number.
          pictures = out[row].reshape(-1, *out.shape[-3:])
          targets[slot.view].append(pictures)
      data, picture, wanted = encoded[i], opened[i], cuts.get(i)
      encoded[i] = opened[i] = None  # Frees the memory after decoding.
      index, bad = int(indices[i]), []
      while True:
        try:
          if picture is None:
            picture = crops.read(data, self.exif)
            (wanted,) = self.cuts(batch, places[i : i + 1], [picture.size])
          used = [n for n, target in enumerate(targets) if target]
          crops.cut(
            picture,
            [c for n in used for c in wanted[n]],
            [out for n in used for out in targets[n][0]],
          )
          break
        except crops.BadImage as error:
          bad.append((index, str(error)))
          if len(bad) == min(_NEIGHBOURS, len(self.images)):
            raise ConfigError(
              f"{len(bad)} images in a row cannot be decoded, the first"
              f" being {self.images.name(bad[0][0])}: {bad[0][1]}."
            ) from error
        # The next image in the set: the same one on every machine.
        index = (index + 1) % len(self.images)
        (data,), labels[i : i + 1] = self.images.read([index])
        picture = None
      indices[i] = index
      for pictures in targets:
        for copy in pictures[1:]:
          copy[:] = pictures[0]
      return bad

    found = _pool(self.threads).map(cut, range(len(places)))
    bad = tuple(x for each in found for x in each)
    own = np.searchsorted(places, mine)
    arrays = {
      "views": tuple(outs),
      "label": labels[own],
      "index": indices[own].astype(np.int32),
      **shuffled,
    }
    return HostBatch(arrays, bad)

  def cuts(
    self, batch: int, places: np.ndarray, sizes: list[tuple[int, int]]
  ) -> list[list[list[crops.Cut]]]:
    """Samples the cuts of each image: for every view, one for each picture.

    Args:
      batch: number of the batch.
      places: int[n], positions of the images in the global batch.
      sizes: height and width of each image.
    """
    # Sampled for the whole global batch; this process uses some of its rows.
    bits = np.random.Philox(
      np.random.SeedSequence([self.order.seed, batch, _CUTS])
    )
    n = views_lib.uniforms_per_image(self.views)
    uniforms = np.random.Generator(bits).random((self.order.batch_size, n))
    height, width = np.array(sizes, np.int64).reshape(-1, 2).T
    return views_lib.random_cuts(self.views, uniforms[places], height, width)


def _shuffled(
  order: Order, batch: int, rows: np.ndarray, slots: tuple[Slot, ...]
) -> dict[str, np.ndarray]:
  """`place` and `back` of `HostBatch`; empty if no slot is shuffled."""
  if not any(slot.shuffled for slot in slots):
    return {}
  place = order.shuffle(batch)
  back = np.argsort(place)
  return {
    "place": place[rows].astype(np.int32),
    "back": back[rows].astype(np.int32),
  }


@functools.cache
def _pool(threads: int) -> futures.ThreadPoolExecutor:
  """The thread pool for all batches; each worker process has its own."""
  return futures.ThreadPoolExecutor(threads, thread_name_prefix="cut")


def default_threads() -> int:
  """The number of cores that this process may use."""
  return len(os.sched_getaffinity(0))


def evaluation_batches(
  images: Images,
  batch_size: int,
  rows: np.ndarray,
  centre: Centre,
  limit: int | None = None,
  *,
  exif: bool = True,
  on_bad: Callable[[int, str], None] = lambda index, reason: None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields this process's rows of the whole set, in its own order.

  Args:
    images: the set.
    batch_size: global batch size; the last batch is padded.
    rows: int[rows], the rows of each global batch that this process loads.
    centre: the evaluation view of encoded images.
    limit: maximum number of images; None is all.
    exif: whether to apply the EXIF orientation.
    on_bad: called with the index of each image in these rows that cannot be
      decoded, and the reason.

  Yields:
    uint8[rows, h, w, c], and int32[rows] labels: -1 for padding and for an
    image that cannot be decoded; 0 where the set has no labels.
  """
  total = min(len(images), limit or len(images))

  def load(first: int) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    indices = first + rows
    valid = indices < total
    indices = np.where(valid, indices, 0)
    pixels, labels = images.read(indices)
    bad = {}
    if not isinstance(images, Arrays):
      pixels, bad = centres(pixels, images.channels, centre, exif)
      bad = {row: reason for row, reason in bad.items() if valid[row]}
      valid[list(bad)] = False
    if images.num_classes is None:
      labels = np.zeros(len(indices), np.int32)
    bad = {int(indices[row]): reason for row, reason in bad.items()}
    return pixels, np.where(valid, labels, -1).astype(np.int32), bad

  firsts = range(0, total, batch_size)
  with contextlib.closing(Ahead(load, firsts, 1, "evaluation")) as batches:
    for pixels, labels, bad in batches:
      for index, reason in bad.items():
        on_bad(index, reason)
      yield pixels, labels


def centres(
  encoded: Sequence[bytes | np.ndarray],
  channels: int,
  centre: Centre,
  exif: bool,
) -> tuple[np.ndarray, dict[int, str]]:
  """Decodes images and cuts the evaluation view of each.

  Args:
    encoded: images as `Images.read` returns them.
    channels: number of channels of the pixels.
    centre: the evaluation view.
    exif: whether to apply the EXIF orientation.

  Returns:
    Pixels uint8[n, size, size, channels], and for each row that cannot be
    decoded the reason.
  """
  out = np.zeros((len(encoded), centre.size, centre.size, channels), np.uint8)

  def cut(row: int) -> str | None:
    try:
      picture = crops.read(encoded[row], exif)
      where = centre.cut(*picture.size)
      crops.cut(picture, [where], [out[row]])
    except crops.BadImage as error:
      return str(error)

  reasons = _pool(default_threads()).map(cut, range(len(encoded)))
  return out, {row: reason for row, reason in enumerate(reasons) if reason}
