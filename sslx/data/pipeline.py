"""Batches on the devices: threads, processes, prefetch and iterator state.

One Grain element is one batch, so that Grain's overhead is paid per batch.
Batch `i` of a run holds the same views of the same examples in the same order,
whatever the number of processes, devices, threads or worker processes. The
state of an iterator is only the number of batches taken and the version of the
scheme that draws their order.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from sslx.config import ConfigError, require
from sslx.data import loader
from sslx.data import views as views_lib
from sslx.data.ahead import Ahead
from sslx.data.loader import HostBatch
from sslx.data.order import SCHEME, Order
from sslx.data.sets import Arrays, Images
from sslx.data.sources import Source
from sslx.data.views import VIEW, Centre, Slot
from sslx.errors import RunError

_SHARED = "/dev/shm"  # where Python's shared memory is on Linux


@dataclasses.dataclass(frozen=True)
class Data:
  """Config section `data`.

  Attributes:
    source: `shapes`, `folder`, or the name of a TFDS data set.
    batch_size: global batch: images per step over all devices.
    views: the views of each image that the method receives.
    mean: mean per channel of images in [0, 1], for normalisation.
    std: standard deviation per channel of images in [0, 1].
    data_dir: folder of images, or TFDS directory; None is TFDS's default.
    prepare: whether to download and prepare a set that does not exist.
    train: the split to train on, see `sources.Source`.
    test: the split to evaluate on, see `sources.Source`.
    channels: number of channels of the network's input. 3 is RGB, 1 is the luma
      of RGB; a set of other images has a number of its own.
    centre: the evaluation view of large images; small images are not cropped.
    exif: whether to apply the EXIF orientation.
    max_bad: the fraction of images that may fail to decode before the run
      stops, rounded up to a whole number; applies to each set.
    threads: threads that cut views; None is one per core of this process.
    workers: processes that cut views, with `threads` each. 0 cuts in this
      process, which is the fastest up to a few dozen cores.
  """

  source: str
  batch_size: int
  views: tuple[VIEW, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  data_dir: str | None = None
  prepare: bool = True
  train: str | None = None
  test: str | None = None
  channels: int = 3
  centre: Centre = Centre()
  exif: bool = True
  max_bad: float = 0.01
  threads: int | None = None
  workers: int = 0

  def __post_init__(self):
    require(self, "batch_size", self.batch_size >= 1, "positive")
    require(self, "views", bool(self.views), "one view or more")
    require(self, "channels", self.channels >= 1, "positive")
    for name in ("mean", "std"):
      fits = len(getattr(self, name)) == self.channels
      accepted = f"one number for each of channels={self.channels}"
      require(self, name, fits, accepted)
    require(self, "std", min(self.std) > 0, "positive")
    views_lib.check(self.views, self.channels)
    require(self, "max_bad", 0 <= self.max_bad <= 1, "a share, 0 to 1")
    positive = self.threads is None or self.threads >= 1
    require(self, "threads", positive, "positive, or None for all cores")
    require(self, "workers", self.workers >= 0, "0 or more")

  def check_bad(self, bad: int, total: int, example: str | None) -> None:
    """Raises an error if too many images cannot be decoded.

    Args:
      bad: number of images that cannot be decoded.
      total: number of images.
      example: name of a bad image, if known.

    Raises:
      ConfigError: there are more bad images than `max_bad` allows.
    """
    # Without `round`, 0.07 * 100 would be rounded up to 8.
    if bad > math.ceil(round(self.max_bad * total, 6)):
      such = f", such as {example}" if example else ""
      raise ConfigError(
        f"{bad:,} of {total:,} images cannot be decoded{such}; more than"
        f" config.data.max_bad={self.max_bad} allows. Repair or remove them, or"
        " raise config.data.max_bad."
      )

  def check_channels(self, images: Images) -> None:
    """Checks that images have the channels of the network's input.

    Raises:
      ConfigError: they do not, and are not RGB for a network that takes luma.
    """
    found = images.channels
    if self.channels == found or (self.channels, found) == (1, 3):
      return
    accepted = " or 1" if found == 3 else ""
    raise ConfigError(
      f"config.data.channels is {self.channels}, and the images of"
      f" config.data.source={self.source!r} have {found}; it must be"
      f" {found}{accepted}, with a config.data.mean and std for each."
    )

  def check_views(self, images: Images) -> None:
    """Checks also that the views change only colours that the images have.

    Raises:
      ConfigError: see `check_channels`; or images that are not RGB have views
        with saturation, hue or grey.
    """
    self.check_channels(images)
    found = images.channels
    for i, view in enumerate(self.views):
      if found != 3 and view.needs_rgb:
        raise ConfigError(
          f"config.data.views.{i} changes saturation, hue or grey, which images"
          f" of {found} channels do not have. Set its grey to 0, and the last"
          " two numbers of jitter."
        )

  @property
  def records(self) -> Source:
    """The source of the images."""
    return Source(
      self.source, self.data_dir, self.prepare, self.train, self.test
    )


def host_batches(
  images: Images,
  order: Order,
  rows: np.ndarray,
  data: Data,
  *,
  slots: tuple[Slot, ...] | None = None,
  start: int = 0,
) -> Iterator[HostBatch]:
  """Iterates over this process's rows of each batch, as NumPy arrays.

  Args:
    images: the set.
    order: the order of the examples.
    rows: int[b], the rows of each global batch that this process loads.
    data: config section: views, threads and worker processes.
    slots: the arrays that the method receives; every view once by default.
    start: number of the first batch.
  """
  if slots is None:
    slots = views_lib.unshuffled(len(views_lib.each(data.views)))
  if isinstance(images, Arrays):
    load, ahead = loader.Gather(images, order, rows, slots), 1
    workers = 0
  else:
    threads = data.threads or loader.default_threads()
    # Two batches at a time: one is read while the other is decoded.
    load = loader.CutViews(
      images, order, rows, data.views, slots, threads, data.exif
    )
    ahead, workers = 2, data.workers
  batches = grain.MapDataset.range(start, len(order)).map(load)
  batches = batches.to_iter_dataset(
    grain.ReadOptions(num_threads=ahead, prefetch_buffer_size=2 * ahead)
  )
  if workers:
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()  # Grain reads absl flags of its own.
    batches = batches.mp_prefetch(
      grain.MultiprocessingOptions(workers, per_worker_buffer_size=2),
      _end_with_parent,
    )
    return _of_workers(iter(batches))
  return iter(batches)


def _of_workers(batches: Iterator[HostBatch]) -> Iterator[HostBatch]:
  """Yields the batches; explains the error if a worker process dies."""
  try:
    yield from batches
  except RuntimeError as error:
    if "Worker process was terminated" not in str(error):
      raise
    first = str(error).partition(". Search")[0]
    raise RunError(
      f"{first}. -7 means that /dev/shm is full, -9 that memory ran out. Free"
      " some, or lower config.data.workers."
    ) from error
  finally:
    getattr(batches, "close", lambda: None)()


def check_workers(batch: dict[str, Any], workers: int) -> None:
  """Checks that /dev/shm has room for the batches of the worker processes.

  Args:
    batch: ShapeDtypeStructs of this process's rows.
    workers: number of worker processes.

  Raises:
    ConfigError: there is too little room; a worker process would crash.
  """
  if not workers or not os.path.isdir(_SHARED):
    return
  sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)]
  # Each worker holds two finished batches and makes one; two more are in use.
  need = sum(sizes) * (3 * workers + 2)
  found = os.statvfs(_SHARED)
  free = found.f_bavail * found.f_frsize
  if free < need:
    mib = math.ceil(need / 2**20)
    raise ConfigError(
      f"config.data.workers={workers}: worker processes hand batches over in"
      f" {_SHARED}, which has {free / 2**20:,.0f} MiB free; they need {mib:,}"
      f" MiB. Enlarge it (docker run --shm-size={mib}m; in Kubernetes, an"
      " emptyDir of medium Memory), or set config.data.workers=0."
    )


def _end_with_parent(index: int, count: int) -> None:
  """Initialises a worker process: it ends with its parent, not before."""
  # A terminal and SLURM also send signals to the workers, which ignore them.
  # The parent handles them: it may need batches until its last step is saved.
  for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)

  def watch() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # Does not wait for other threads.

  threading.Thread(target=watch, daemon=True, name="parent").start()


def iterator_state(taken: int) -> dict[str, int]:
  """The state of an iterator after `taken` batches of a run."""
  return {"next_index": taken, "order": SCHEME}


class Batches(Iterator):
  """Batches on the devices, prefetched by a thread.

  `state` counts the batches that were returned, not those prefetched, so it is
  correct to save at any time.
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
      batches: batches on the host.
      put: turns a host batch into device arrays; called in the thread.
      start: number of batches of the run before these.
      ahead: number of batches that may wait on the devices.
      on_bad: called once for each image that cannot be decoded, with its index
        and the reason. It is called by `__next__`, so its errors reach the
        consumer.
    """
    self.state = iterator_state(start)
    self.bad: set[int] = set()  # indices of images that cannot be decoded
    self.replaced = 0  # number of times that such an image was replaced
    self._on_bad = on_bad
    put_one = lambda batch: (put(batch.arrays), batch.bad)
    self._made = Ahead(put_one, batches, ahead, "batches")

  def __next__(self) -> Any:
    arrays, bad = next(self._made)
    self.state = iterator_state(self.state["next_index"] + 1)
    self.replaced += len(bad)
    for index, reason in bad:
      if index not in self.bad:
        self.bad.add(index)
        self._on_bad(index, reason)
    return arrays

  def close(self) -> None:
    """Ends the thread; no batch can be taken afterwards."""
    self._made.close()
