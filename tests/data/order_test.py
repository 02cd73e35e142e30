"""The order of the images: a bijection, well mixed, the same everywhere."""

import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from sslx.data.order import Order, permute


def whole(n, *seed):
  return permute(np.arange(n, dtype=np.uint64), n, list(seed))


SIZES = [*range(1, 20), 49, 63, 64, 65, 100, 255, 256, 257, 1023, 1024, 1025]


@pytest.mark.parametrize("n", [*SIZES, 65535, 65536, 65537, 1_281_167])
def test_every_index_comes_once(n):
  order = whole(n, 3, 0)
  assert order.dtype == np.int64 and len(order) == n
  np.testing.assert_array_equal(np.sort(order), np.arange(n))


def _by_hand(place, n, seed):
  """The same in integers without end, one index at a time."""
  half = 3
  while 4**half < n:
    half += 1
  keys = np.random.SeedSequence(seed).generate_state(12, np.uint64)
  x = place
  while True:
    left, right = divmod(x, 2**half)
    for key in map(int, keys):
      z = right ^ key
      z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
      z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
      z ^= z >> 31
      left, right = right, left ^ z >> (64 - half)
    x = left * 2**half + right
    if x < n:
      return x


@pytest.mark.parametrize("n", [5, 1000, 1_281_167, 10**9, 2**33 + 1])
def test_order_is_the_same_wherever_it_is_computed(n):
  """A change here needs another SCHEME: older runs could not go on."""
  places = np.linspace(0, n - 1, min(n, 40)).astype(np.uint64)
  expected = [_by_hand(int(place), n, [7, 2]) for place in places]
  np.testing.assert_array_equal(permute(places, n, [7, 2]), expected)


def test_batches_are_parts_of_one_permutation():
  order = Order(1000, 64, steps=30, seed=5)
  epochs = np.reshape([order[i] for i in range(len(order))], (2, -1))
  for number, epoch in enumerate(epochs):
    np.testing.assert_array_equal(epoch, whole(1000, 5, number)[: 15 * 64])
  assert len(set(order.shuffle(3))) == 64
  assert not np.array_equal(order.shuffle(3), order.shuffle(4))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_permutations_of_a_few_are_equally_likely(n):
  drawn = [tuple(whole(n, 1, epoch)) for epoch in range(1200)]
  counts = [drawn.count(p) for p in itertools.permutations(range(n))]
  assert len(counts) == math.factorial(n)
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("n", [16, 17, 100])
def test_every_image_is_equally_likely_in_every_place(n):
  epochs = np.array([whole(n, 2, epoch) for epoch in range(1000)])
  counts = np.array([np.bincount(place, minlength=n) for place in epochs.T])
  expected = len(epochs) / n
  statistic = ((counts - expected) ** 2 / expected).sum()
  # Rows and columns of the counts have given sums.
  pvalue = scipy.stats.chi2.sf(statistic, (n - 1) ** 2)
  assert 1e-3 < pvalue < 1 - 1e-3


@pytest.mark.parametrize("n", [4096, 100_000, 1_281_167])
def test_neighbours_and_epochs_are_unrelated(n):
  first, second = whole(n, 0, 0), whole(n, 0, 1)
  bins = lambda x: x * 16 // n
  pairs = [
    (first[:-1], first[1:]),  # neighbours in a batch
    (first[:-256], first[256:]),
    (first, second),  # an image's place in two epochs
    (first, whole(n, 1, 0)),  # and of two seeds
    (np.arange(n), first),  # the order of the files
  ]
  for a, b in pairs:
    counts = np.bincount(bins(a) * 16 + bins(b), minlength=256)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(n)
  steps = np.diff(first) % n
  counts = np.bincount(steps * 16 // n, minlength=16)
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_as_many_fixed_points_as_a_random_permutation_has():
  fixed = [np.sum(whole(1000, 4, e) == np.arange(1000)) for e in range(400)]
  # Poisson of mean 1: a mean over 400 strays by 0.05.
  assert abs(np.mean(fixed) - 1) < 0.2


def test_a_billion_images_take_no_more_than_a_hundred_thousand():
  used = {}
  for n in (10**5, 10**9):
    tracemalloc.start()
    began = time.perf_counter()
    batch = Order(n, 4096, steps=2 * (n // 4096), seed=0)[0]
    took = time.perf_counter() - began
    used[n] = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(batch)) == 4096 and batch.max() < n
    assert took < 1  # a permutation of 10^9 takes many seconds
  assert max(used.values()) < 2**20
  assert batch.max() > 0.99 * n
