"""From a source to batches on the devices: order, shards, prefetch, state.

One Grain element is one batch, so that Grain's overhead is paid per batch.
Batch `i` of a run holds the same views of the same examples in the same order
whatever the number of processes, devices, threads or worker processes: it
depends on the seed alone, and the only state of an iterator is the number of
batches taken.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from sslx.config import ConfigError, require
from sslx.data import crops
from sslx.data import views as views_lib
from sslx.data.sources import Arrays, Encoded, Source
from sslx.data.views import Centre, Patches, Slot, View

# Streams of the seed of their own: the order of the examples takes the others.
_CUTS, _SHUFFLE = 0x63757473, 0x73687566
# More damaged neighbours than this, and it is not the images that are damaged.
_NEIGHBOURS = 100


@dataclasses.dataclass(frozen=True)
class Data:
  """Config section `data`.

  Attributes:
    source: `shapes`, `folder`, or the name of a TFDS data set.
    batch_size: global batch, images per step over all devices.
    views: what the method is given of each image.
    mean: per channel, of images in [0, 1].
    std: per channel, of images in [0, 1].
    data_dir: folder of images, or TFDS directory; None is TFDS's default.
    prepare: whether to download and prepare a set that is not there.
    train: the split to train on, see `sources.Source`.
    test: the split to evaluate on, see `sources.Source`.
    centre: the view that large images are evaluated on; small ones are whole.
    max_bad: the share of images that may fail to decode before the run stops.
    threads: that cut views; None is one per core of this process.
    workers: processes that cut views, with `threads` each; 0 is this one, which
      is the fastest up to some dozens of cores.
  """

  source: str
  batch_size: int
  views: tuple[View | Patches, ...]
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  data_dir: str | None = None
  prepare: bool = True
  train: str | None = None
  test: str | None = None
  centre: Centre = Centre()
  max_bad: float = 0.01
  threads: int | None = None
  workers: int = 0

  def __post_init__(self):
    require(self, "batch_size", self.batch_size >= 1, "positive")
    require(self, "views", bool(self.views), "one view or more")
    require(self, "std", min(self.std) > 0, "positive")
    require(self, "max_bad", 0 <= self.max_bad <= 1, "a share, 0 to 1")
    positive = self.threads is None or self.threads >= 1
    require(self, "threads", positive, "positive, or None for all cores")
    require(self, "workers", self.workers >= 0, "0 or more")

  @property
  def records(self) -> Source:
    """Where the records come from."""
    return Source(
      self.source, self.data_dir, self.prepare, self.train, self.test
    )


@dataclasses.dataclass(frozen=True)
class Order:
  """Which examples are in which batch of a run: a random-access sequence.

  Every epoch is a new permutation, of which the last, partial global batch is
  dropped.

  Attributes:
    num_examples: in the data set.
    batch_size: global.
    epochs: length of the run.
    seed: all that the order depends on.
  """

  num_examples: int
  batch_size: int
  epochs: int
  seed: int

  def __post_init__(self):
    if self.batch_size > self.num_examples:
      raise ConfigError(
        f"config.data.batch_size is {self.batch_size}, but the data set has"
        f" only {self.num_examples} images; use at most that many."
      )

  @property
  def steps_per_epoch(self) -> int:
    """Whole batches in an epoch."""
    return self.num_examples // self.batch_size

  def __len__(self) -> int:
    return self.epochs * self.steps_per_epoch

  def __getitem__(self, batch: int) -> np.ndarray:
    """int64[batch_size]: examples of the batch."""
    epoch, place = divmod(int(batch), self.steps_per_epoch)
    first = place * self.batch_size
    permutation = _permutation(self.num_examples, self.seed, epoch)
    return permutation[first : first + self.batch_size]

  def shuffle(self, batch: int) -> np.ndarray:
    """int64[batch_size]: the example that is in each row of a shuffled slot.

    MoCo's shuffled BatchNorm (He et al. 2020, section 3.3) without moving an
    image between devices: the loader puts the rows in this order.
    """
    bits = np.random.Philox(
      np.random.SeedSequence([self.seed, batch, _SHUFFLE])
    )
    return np.random.Generator(bits).permutation(self.batch_size)


@functools.lru_cache(maxsize=2)  # Prefetch may straddle two epochs.
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
  bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
  return np.random.Generator(bits).permutation(n)


class HostBatch(NamedTuple):
  """What one Grain element is.

  Attributes:
    arrays: `label`, int32[b], -1 where there is none; and `views`, a tuple of
      uint8[b, *view.shape] for each slot, or `image`, uint8[b, h, w, 3]. If
      some slot is shuffled also `place`, int32[b], which example of the global
      batch is in each of its rows; `back`, int32[b], in which of its rows each
      example is; and `shuffled_image` beside `image`.
    bad: (index, reason) of each image that had to be replaced.
  """

  arrays: dict[str, Any]
  bad: tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True)
class _Gather:
  """Makes this process's rows of a batch, of images in memory."""

  images: Arrays
  order: Order
  rows: slice
  slots: tuple[Slot, ...]

  def __call__(self, batch: int) -> HostBatch:
    indices = self.order[batch]
    mine = indices[self.rows]
    if self.images.labels is None:
      labels = np.full(len(mine), -1, np.int32)
    else:
      labels = self.images.labels[mine]
    arrays = {"image": self.images.images[mine], "label": labels}
    shuffled = _shuffled(self.order, batch, self.rows, self.slots)
    if shuffled:
      moved = indices[shuffled["place"]]
      arrays |= {"shuffled_image": self.images.images[moved], **shuffled}
    return HostBatch(arrays, ())


@dataclasses.dataclass(frozen=True)
class CutViews:
  """Makes this process's rows of a batch, of encoded images.

  An image is decoded once, in whichever rows of whichever slots it is wanted.
  """

  images: Encoded
  order: Order
  rows: slice
  views: tuple[View | Patches, ...]
  slots: tuple[Slot, ...]
  threads: int

  def __call__(self, batch: int) -> HostBatch:
    """Reads, decodes and cuts."""
    first, b = self.rows.start, self.rows.stop - self.rows.start
    shuffled = _shuffled(self.order, batch, self.rows, self.slots)
    # Of each slot: which example of the global batch is in each of its rows.
    mine = np.arange(first, first + b)
    held = [shuffled["place"] if s.shuffled else mine for s in self.slots]
    places = np.unique(np.concatenate([mine, *held]))
    row_of = [dict(zip(x.tolist(), range(b), strict=True)) for x in held]

    indices = self.order[batch][places]
    encoded, labels = self.images.read(indices)
    sizes = [_size(data) for data in encoded]
    cuts = self.cuts(batch, places, sizes)
    kinds = views_lib.each(self.views)
    outs = [np.empty((b, *kinds[s.view].shape), np.uint8) for s in self.slots]

    def cut(i: int) -> list[tuple[int, str]]:
      """One image, into all its rows."""
      targets = [[] for _ in kinds]
      for slot, rows, out in zip(self.slots, row_of, outs, strict=True):
        row = rows.get(int(places[i]))
        if row is not None:
          # Single pictures: a patch is one of nine of its view.
          pictures = out[row].reshape(-1, *out.shape[-3:])
          targets[slot.view].append(pictures)
      data, encoded[i] = encoded[i], None  # Freed as soon as it is decoded.
      index, wanted, bad = int(indices[i]), cuts[i], []
      while True:
        try:
          used = [n for n, target in enumerate(targets) if target]
          crops.cut(
            data,
            [c for n in used for c in wanted[n]],
            [out for n in used for out in targets[n][0]],
          )
          break
        except crops.BadImage as error:
          bad.append((index, str(error)))
          if len(bad) == _NEIGHBOURS:
            raise ConfigError(
              f"{_NEIGHBOURS} images in a row cannot be decoded, the first"
              f" being {self.images.name(bad[0][0])}: {bad[0][1]}."
            ) from error
        # The neighbour in the set, and so the same one on every machine.
        index = (index + 1) % len(self.images)
        (data,), labels[i : i + 1] = self.images.read([index])
        (wanted,) = self.cuts(batch, places[i : i + 1], [_size(data)])
      for pictures in targets:
        for copy in pictures[1:]:
          copy[:] = pictures[0]
      return bad

    found = _pool(self.threads).map(cut, range(len(places)))
    bad = tuple(x for each in found for x in each)
    labels = labels[np.searchsorted(places, mine)]
    return HostBatch({"views": tuple(outs), "label": labels, **shuffled}, bad)

  def cuts(
    self, batch: int, places: np.ndarray, sizes: list[tuple[int, int]]
  ) -> list[list[list[crops.Cut]]]:
    """What is cut out of each image: for every view, one `Cut` or nine.

    Args:
      batch: its number.
      places: int[n], of the images in the global batch.
      sizes: height and width of each of them.
    """
    # Drawn for the whole global batch, of which this process has some rows.
    bits = np.random.Philox(
      np.random.SeedSequence([self.order.seed, batch, _CUTS])
    )
    n = crops.uniforms_per_image(self.views)
    uniforms = np.random.Generator(bits).random((self.order.batch_size, n))
    return crops.random_cuts(self.views, uniforms[places], *np.array(sizes).T)


def _shuffled(
  order: Order, batch: int, rows: slice, slots: tuple[Slot, ...]
) -> dict[str, np.ndarray]:
  """`place` and `back` of `HostBatch`, if some slot is shuffled."""
  if not any(slot.shuffled for slot in slots):
    return {}
  place = order.shuffle(batch)
  back = np.argsort(place)
  return {
    "place": place[rows].astype(np.int32),
    "back": back[rows].astype(np.int32),
  }


def _size(data: bytes | np.ndarray) -> tuple[int, int]:
  """Height and width; of what is no image, anything: it will not decode."""
  try:
    return crops.size(data)
  except crops.BadImage:
    return 1, 1


@functools.cache
def _pool(threads: int) -> futures.ThreadPoolExecutor:
  """One for all batches of a process, and another in each worker process."""
  return futures.ThreadPoolExecutor(threads, thread_name_prefix="cut")


def default_threads() -> int:
  """One per core that this process may use."""
  return len(os.sched_getaffinity(0))


def host_batches(
  images: Arrays | Encoded,
  order: Order,
  rows: slice,
  data: Data,
  *,
  slots: tuple[Slot, ...] | None = None,
  start: int = 0,
) -> Iterator[HostBatch]:
  """This process's rows of each batch, as numpy.

  Args:
    images: the set.
    order: of the examples.
    rows: the part of each global batch that this process loads.
    data: views, threads and worker processes.
    slots: what the method is given; every view by default.
    start: the batch to begin with.
  """
  if slots is None:
    slots = views_lib.unshuffled(len(views_lib.each(data.views)))
  if isinstance(images, Arrays):
    load, ahead = _Gather(images, order, rows, slots), 1
  else:
    threads = data.threads or default_threads()
    # Two batches at a time: while one is read, the other is decoded.
    load = CutViews(images, order, rows, data.views, slots, threads)
    ahead = 2
  batches = grain.MapDataset.range(start, len(order)).map(load)
  batches = batches.to_iter_dataset(
    grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=2 * ahead)
  )
  if data.workers and not isinstance(images, Arrays):
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads its own, with or without main.
    batches = batches.mp_prefetch(
      grain.MultiprocessingOptions(data.workers, per_worker_buffer_size=2),
      _end_with_parent,
    )
  return iter(batches)


def _end_with_parent(index: int, count: int) -> None:
  """In a worker process: lets it not outlive a parent that was killed."""

  def watch() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # Whatever the other threads wait for.

  threading.Thread(target=watch, daemon=True, name="parent").start()


def evaluation_batches(
  images: Arrays | Encoded,
  batch_size: int,
  rows: slice,
  centre: Centre,
  limit: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """A set in its own order, nothing dropped: this process's rows.

  Args:
    images: the set.
    batch_size: global; the last batch is padded.
    rows: the part of each global batch that this process loads.
    centre: the view of encoded images.
    limit: only so many images.

  Yields:
    uint8[rows, h, w, 3], and int32[rows] labels: -1 for padding and for an
    image that cannot be decoded; 0 where the set has no labels.
  """
  total = min(len(images), limit or len(images))

  def load(first: int) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(first + rows.start, first + rows.stop)
    valid = indices < total
    indices = np.where(valid, indices, 0)
    if isinstance(images, Arrays):
      labels = None if images.labels is None else images.labels[indices]
      pixels = images.images[indices]
    else:
      pixels, labels = _centres(images, indices, centre)
      valid &= labels != _UNDECODED
    if images.num_classes is None:
      labels = np.zeros(len(indices), np.int32)
    return pixels, np.where(valid, labels, -1).astype(np.int32)

  firsts = range(0, total, batch_size)
  with futures.ThreadPoolExecutor(1) as ahead:  # Reads on while we encode.
    pending = None
    for first in firsts:
      loading = ahead.submit(load, first)
      if pending:
        yield pending.result()
      pending = loading
    yield pending.result()


_UNDECODED = -2  # a label


def _centres(
  images: Encoded, indices: np.ndarray, centre: Centre
) -> tuple[np.ndarray, np.ndarray]:
  encoded, labels = images.read(indices)
  out = np.zeros((len(indices), centre.size, centre.size, 3), np.uint8)

  def cut(row: int) -> None:
    try:
      where = crops.centre_cut(centre, *crops.size(encoded[row]))
      crops.cut(encoded[row], [where], [out[row]])
    except crops.BadImage:
      labels[row] = _UNDECODED

  list(_pool(default_threads()).map(cut, range(len(indices))))
  return out, labels


class Batches(Iterator):
  """Batches on the devices, made ahead by a thread.

  `state` is that of the batches handed out, not of those made ahead, so it is
  exact to save at any moment.
  """

  def __init__(
    self,
    batches: Iterator[HostBatch],
    put: Callable[[Any], Any],
    *,
    start: int = 0,
    ahead: int = 2,
    on_bad: Callable[[int, str], None] = lambda index, reason: None,
  ):
    """Starts the thread.

    Args:
      batches: on the host.
      put: makes device arrays of one of them; called in the thread.
      start: how many batches of the run came before these.
      ahead: how many batches may wait on the devices.
      on_bad: told once of each image that cannot be decoded; called in the
        thread that takes the batches, whom an error that it raises reaches.
    """
    self.state = {"next_index": start}
    self.bad: set[int] = set()  # different images
    self.replaced = 0  # how often one of them was drawn
    self._on_bad = on_bad
    self._ready = queue.Queue(maxsize=ahead)
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._fill, args=(batches, put), daemon=True, name="batches"
    )
    self._thread.start()

  def _fill(self, batches: Iterator[HostBatch], put: Callable) -> None:
    try:
      for arrays, bad in batches:
        self._offer((put(arrays), bad))
        if self._closed.is_set():
          return
      self._offer(StopIteration())
    except BaseException as error:  # Raised again in the consumer's thread.
      self._offer(error)
    finally:
      # Ends worker processes now, and not when Python finds the time.
      getattr(batches, "close", lambda: None)()

  def _offer(self, item: Any) -> None:
    while not self._closed.is_set():
      try:
        return self._ready.put(item, timeout=0.1)
      except queue.Full:
        continue

  def __next__(self) -> Any:
    item = self._ready.get()
    if isinstance(item, BaseException):
      self._ready.put(item)  # Exhausted, or broken, for good.
      raise item
    arrays, bad = item
    self.state = {"next_index": self.state["next_index"] + 1}
    self.replaced += len(bad)
    for index, reason in bad:
      if index not in self.bad:
        self.bad.add(index)
        self._on_bad(index, reason)
    return arrays

  def close(self) -> None:
    """Ends the thread; no batch can be taken after."""
    self._closed.set()
    self._thread.join()
