"""The order of examples in a run.

The order depends only on the seed: not on processes, devices, threads, earlier
reads, or the versions of Python and numpy. It is computed index by index, so a
set of 10^9 images takes no more memory than one of 10^5.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sslx.config import ConfigError

# Version of the scheme that draws the order; saved in every checkpoint.
# Version 1 was a permutation in memory.
SCHEME = 2

# The seed's stream for `shuffle`; the order of the examples has other streams.
_SHUFFLE = 0x73687566


@dataclasses.dataclass(frozen=True)
class Order:
  """The examples of each batch of a run: a random-access sequence.

  Every epoch is a new permutation. Its last, partial global batch is dropped.

  Attributes:
    num_examples: number of examples in the data set.
    batch_size: global batch size.
    steps: length of the run, in batches.
    seed: the seed that determines the order.
  """

  num_examples: int
  batch_size: int
  steps: int
  seed: int

  def __post_init__(self):
    if self.batch_size > self.num_examples:
      raise ConfigError(
        f"config.data.batch_size is {self.batch_size}, but the data set has"
        f" only {self.num_examples} images; use at most that many."
      )

  @property
  def steps_per_epoch(self) -> int:
    """Number of full batches in an epoch."""
    return self.num_examples // self.batch_size

  def __len__(self) -> int:
    return self.steps

  def __getitem__(self, batch: int) -> np.ndarray:
    """The examples of a batch, int64[batch_size]."""
    epoch, place = divmod(int(batch), self.steps_per_epoch)
    first = place * self.batch_size
    places = np.arange(first, first + self.batch_size, dtype=np.uint64)
    return permute(places, self.num_examples, [self.seed, epoch])

  def shuffle(self, batch: int) -> np.ndarray:
    """The example in each row of a shuffled slot, int64[batch_size].

    This implements MoCo's shuffled BatchNorm (He et al. 2020, section 3.3). The
    loader puts the rows in this order, so no image moves between devices.
    """
    rows = np.arange(self.batch_size, dtype=np.uint64)
    return permute(rows, self.batch_size, [self.seed, batch, _SHUFFLE])


_ROUNDS = 12
_LEAST = 3  # minimum bits of a half; with fewer there are too few functions


def permute(places: np.ndarray, n: int, seed: list[int]) -> np.ndarray:
  """Evaluates a pseudo-random permutation of [0, n) at some positions; int64.

  A Feistel network (Luby and Rackoff, How to construct pseudorandom
  permutations from pseudorandom functions, SIAM J. Comput. 1988) permutes the
  numbers below the next power of four. If a result is outside [0, n), the
  network is applied again until the result is inside (Black and Rogaway,
  Ciphers with arbitrary finite domains, CT-RSA 2002). Except for tiny n, this
  takes fewer than four applications on average.

  Args:
    places: uint64 positions in [0, n).
    n: size of the permutation.
    seed: the seed that determines the permutation.
  """
  half = max((int(n - 1).bit_length() + 1) // 2, _LEAST)
  keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
  found = _feistel(places, half, keys)
  while (outside := np.flatnonzero(found >= n)).size:
    found[outside] = _feistel(found[outside], half, keys)
  return found.astype(np.int64)


def _feistel(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
  """Permutes the numbers of 2 * half bits; uint64."""
  left, right = x >> half, x & (2**half - 1)
  for key in keys:
    left, right = right, left ^ (_mix(right ^ key) >> (64 - half))
  return left << half | right


def _mix(x: np.ndarray) -> np.ndarray:
  """Hashes each uint64 with SplitMix64 (Steele et al., 2014)."""
  x = (x ^ (x >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> 27)) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> 31)
