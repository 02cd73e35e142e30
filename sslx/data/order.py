"""Which examples are in which batch of a run, and in which order.

It depends on the seed alone: not on processes, devices, threads or on what has
been read before, nor on the versions of Python and numpy. It is computed index
by index, so that a set of 10^9 images takes no more memory than one of 10^5.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sslx.config import ConfigError

# How the order is drawn; in every checkpoint. 1 was a permutation in memory.
SCHEME = 2

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
    places = np.arange(first, first + self.batch_size, dtype=np.uint64)
    return permute(places, self.num_examples, [self.seed, epoch])

  def shuffle(self, batch: int) -> np.ndarray:
    """int64[batch_size]: the example that is in each row of a shuffled slot.

    MoCo's shuffled BatchNorm (He et al. 2020, section 3.3) without moving an
    image between devices: the loader puts the rows in this order.
    """
    rows = np.arange(self.batch_size, dtype=np.uint64)
    return permute(rows, self.batch_size, [self.seed, batch, _SHUFFLE])


_ROUNDS = 12
_LEAST = 3  # bits of a half: with fewer, there are too few functions to draw


def permute(places: np.ndarray, n: int, seed: list[int]) -> np.ndarray:
  """int64, what a pseudo-random permutation of [0, n) has at these places.

  A Feistel network (Luby and Rackoff, How to construct pseudorandom
  permutations from pseudorandom functions, SIAM J. Comput. 1988) permutes the
  next power of four. Where it leads out of [0, n), it is applied again until it
  leads back (Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA
  2002), which takes less than four times on average but for tiny n.

  Args:
    places: uint64, below n.
    n: how many are permuted.
    seed: all that the permutation depends on.
  """
  half = max((int(n - 1).bit_length() + 1) // 2, _LEAST)
  keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
  found = _feistel(places, half, keys)
  while (outside := np.flatnonzero(found >= n)).size:
    found[outside] = _feistel(found[outside], half, keys)
  return found.astype(np.int64)


def _feistel(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
  """A permutation of the numbers of 2 * half bits, in uint64."""
  left, right = x >> half, x & (2**half - 1)
  for key in keys:
    left, right = right, left ^ (_mix(right ^ key) >> (64 - half))
  return left << half | right


def _mix(x: np.ndarray) -> np.ndarray:
  """A random-looking uint64 of each: SplitMix64 (Steele et al., 2014)."""
  x = (x ^ (x >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> 27)) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> 31)
