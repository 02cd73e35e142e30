"""Masks of blocks against BEiT's algorithm in plain Python."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sslx.axis import Axis
from sslx.models import masks

ROWS, COLUMNS, MANY = 9, 7, 600


def draw(counts, least, grid=(ROWS, COLUMNS)):
  keys = jax.random.split(jax.random.key(0), len(counts))
  blocks = jax.jit(lambda k, c: masks.blocks(k, c, grid, least, Axis()))
  return np.asarray(blocks(keys, jnp.float32(counts)))


def official(count, least, rng):
  """iBOT's loader and BEiT's generator: loops over attempts and pixels."""
  mask = np.zeros((ROWS, COLUMNS), bool)
  while mask.sum() < count:
    left, delta = count - mask.sum(), 0
    for _ in range(10):
      area = rng.uniform(least, left)
      aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
      h = round(math.sqrt(area * aspect))
      w = round(math.sqrt(area / aspect))
      if w < COLUMNS and h < ROWS:
        top, start = rng.randint(0, ROWS - h), rng.randint(0, COLUMNS - w)
        block = mask[top : top + h, start : start + w]
        if 0 < (~block).sum() <= left:
          delta = (~block).sum()
          block[:] = True
          break
    if not delta:
      break
  return mask.reshape(-1)


@pytest.mark.parametrize("least, count", [(4, 20.0), (9, 30.4), (4, 3.0)])
def test_blocks_are_distributed_as_the_official_ones(least, count):
  found = draw([count] * MANY, least)
  rng = random.Random(0)
  expected = np.stack([official(count, least, rng) for _ in range(MANY)])
  assert found.sum(1).max() <= count
  # How many are masked, how often each patch is, and how often a neighbour too.
  error = 5 * expected.sum(1).std() / MANY**0.5 + 1e-6
  np.testing.assert_allclose(
    found.sum(1).mean(), expected.sum(1).mean(), atol=2 * error
  )
  np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=0.12)
  both = lambda x: (x[:, :-1] & x[:, 1:]).mean()
  np.testing.assert_allclose(both(found), both(expected), atol=0.03)


def test_a_mask_is_of_whole_rectangles():
  """One that is drawn at once: its patches fill the rectangle around them."""
  one = 0
  for mask in draw([4.0] * 50, 4).reshape(-1, ROWS, COLUMNS):
    rows, columns = np.nonzero(mask)
    if len(rows) == 4:
      area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
      one += area == 4
  assert one > 20


def test_masks_depend_on_the_key_alone():
  counts = np.linspace(0, 30, 16)
  alone = draw(counts, 4)
  assert not alone[0].any() and alone[1:].any(1).sum() > 10
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  keys = jax.random.split(jax.random.key(0), 16)
  blocks = lambda k, c: masks.blocks(k, c, (ROWS, COLUMNS), 4, Axis("data"))
  split = jax.jit(
    jax.shard_map(blocks, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
  )
  np.testing.assert_array_equal(split(keys, jnp.float32(counts)), alone)


def test_indices_are_those_of_the_masked_patches():
  mask = np.random.default_rng(0).random((5, 12)) < 0.3
  mask[0] = False
  mask[:, 6:] &= mask[:, :6].sum(1, keepdims=True) < 1
  order, weights = map(np.asarray, masks.indices(jnp.asarray(mask), 0.5))
  assert order.shape == weights.shape == (5, 6)
  assert weights.dtype == np.float32
  for row, places, weight in zip(mask, order, weights, strict=True):
    number = row.sum()
    assert set(places[:number]) == set(np.nonzero(row)[0])
    np.testing.assert_allclose(weight[:number], 1 / max(number, 1))
    assert not weight[number:].any()


def test_a_share_of_the_patches_is_a_whole_number_in_spite_of_rounding():
  mask = jnp.zeros((1, 100), bool)
  assert masks.indices(mask, 0.29)[0].shape == (1, 29)
