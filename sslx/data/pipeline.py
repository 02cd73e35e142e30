"""From a source to batches on the devices: order, shards, prefetch, state.

One Grain element is one batch of indices, so that Grain's overhead is paid per
batch. Batch `i` of a run holds the same examples in the same order whatever the
number of processes, devices or threads: it depends on the seed alone, and the
only state of an iterator is the index of its next batch.
"""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from sslx.config import ConfigError, require
from sslx.data.augment import View
from sslx.data.sources import Arrays, Source


@dataclasses.dataclass(frozen=True)
class Data:
  """Config section `data`.

  Attributes:
    source: `shapes`, or the name of a TFDS data set.
    batch_size: global batch, images per step over all devices.
    views: what the method is given of each image.
    mean: per channel, of images in [0, 1].
    std: per channel, of images in [0, 1].
    data_dir: TFDS directory; None is TFDS's default.
    prepare: whether to download and prepare a set that is not there.
  """

  source: str
  batch_size: int
  views: tuple[View, ...]
  mean: tuple[float, float, float]
  std: tuple[float, float, float]
  data_dir: str | None = None
  prepare: bool = True

  def __post_init__(self):
    require(self, "batch_size", self.batch_size >= 1, "positive")
    require(self, "views", bool(self.views), "one view or more")
    require(self, "std", min(self.std) > 0, "positive")

  @property
  def records(self) -> Source:
    """Where the records come from."""
    return Source(self.source, data_dir=self.data_dir, prepare=self.prepare)


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


@functools.lru_cache(maxsize=2)  # Prefetch may straddle two epochs.
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
  bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
  return np.random.Generator(bits).permutation(n)


def host_batches(
  arrays: Arrays, order: Order, rows: slice
) -> grain.DatasetIterator:
  """Batches of an in-memory set, as numpy: this process's rows of each.

  Args:
    arrays: the set.
    order: of the examples.
    rows: the part of each global batch that this process loads.

  Returns:
    A checkpointable iterator of {`image`: uint8[rows, h, w, 3], `label`:
    int32[rows], -1 where there is none}.
  """

  def load(indices: np.ndarray) -> dict[str, np.ndarray]:
    indices = indices[rows]
    if arrays.labels is None:
      labels = np.full(len(indices), -1, np.int32)
    else:
      labels = arrays.labels[indices]
    return {"image": arrays.images[indices], "label": labels}

  return iter(
    grain.MapDataset.source(order)
    .map(load)
    .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
  )


class Batches(Iterator):
  """Batches on the devices, made ahead by a thread.

  `state` is that of the batches handed out, not of those made ahead, so it is
  exact to save at any moment.
  """

  def __init__(
    self,
    batches: grain.DatasetIterator,
    put: Callable[[Any], Any],
    *,
    state: dict[str, Any] | None = None,
    ahead: int = 2,
  ):
    """Starts at `state`, or at the beginning.

    Args:
      batches: of numpy arrays.
      put: makes device arrays of one of them; called in the thread.
      state: what the property `state` of an earlier iterator was.
      ahead: how many batches may wait on the devices.
    """
    if state is not None:
      batches.set_state(state)
    self.state = batches.get_state()
    self._ready = queue.Queue(maxsize=ahead)
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._fill, args=(batches, put), daemon=True, name="batches"
    )
    self._thread.start()

  def _fill(self, batches, put) -> None:
    try:
      for batch in batches:
        self._offer((put(batch), batches.get_state()))
        if self._closed.is_set():
          return
      self._offer(StopIteration())
    except BaseException as error:  # Raised again in the consumer's thread.
      self._offer(error)

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
    batch, self.state = item
    return batch

  def close(self) -> None:
    """Ends the thread; no batch can be taken after."""
    self._closed.set()
    self._thread.join()
