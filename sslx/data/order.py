"""Which examples are in which batch of a run, and in which order.

It depends on the seed alone: not on processes, devices, threads or on what has
been read before.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from sslx.config import ConfigError

# A stream of the seed of its own: the order of the examples takes the others.
_SHUFFLE = 0x73687566


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
