"""I-JEPA's blocks against the official rule written out."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import methods
from sslx.axis import Axis
from sslx.data import augment
from sslx.methods.run import Run
from sslx.models import regions
from tests import tiny

GRID, PATCHES = (8, 8), 64
PLAN = methods.Plan(batch_size=16, steps_per_epoch=4, total_steps=8)


def config_of(**changes):
  return tiny.vit_config("ijepa", model__backbone__depth=1, **changes)


def build(**changes):
  return methods.build(config_of(**changes).model, PLAN)


def run_of(method, views, key, state=({}, {}, {})):
  return Run(method, *state, {"views": views}, key, jnp.int32(0), Axis())


@functools.partial(jax.jit, static_argnums=0)
def drawn(method, images, key):
  return method.blocks(run_of(method, (images,), key))


def masks(blocks):
  """What the lists say: bool[b, n] contexts, and bool[b, m, n] targets."""
  contexts, targets = (np.asarray(x) for x in (blocks.context, blocks.targets))
  b, m, _ = targets.shape
  context, target = np.zeros((b, PATCHES)), np.zeros((b, m, PATCHES))
  for i in range(b):
    np.add.at(context[i], contexts[i][np.asarray(blocks.shown[i])], 1)
    for j in range(m):
      np.add.at(target[i, j], targets[i, j][np.asarray(blocks.asked)], 1)
  assert context.max() == 1 and target.max() == 1  # No patch twice.
  return context.astype(bool), target.astype(bool)


def official_size(grid, scale, aspect, u):
  """As `src/masks/multiblock.py`: one number for scale and aspect ratio."""
  low, high = scale
  area = math.floor(grid[0] * grid[1] * (low + u * (high - low)))
  ratio = aspect[0] + u * (aspect[1] - aspect[0])
  sides = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
  return tuple(min(side, n - 1) for side, n in zip(sides, grid, strict=True))


def official_masks(key, count, scale=(0.85, 1.0), mistake=""):
  """`src/masks/multiblock.py` for a batch, by the random numbers of sslx.

  The contexts are not cut to the smallest of the batch.

  Args:
    key: of the step.
    count: number of images, b.
    scale: range of a context's share of the patches.
    mistake: what to do wrong.

  Returns:
    As `masks`.
  """
  integers = functools.partial(jax.random.randint, minval=0, dtype=np.int32)

  def size_of(key, *ranges):
    u = (int(integers(key, (), maxval=4096)) + 0.5) / 4096
    return official_size(GRID, *ranges, u)

  def corners(keys, number, size):
    end = 1 if mistake == "blocks at the last row and column" else 0
    most = jnp.array([n - s + end for n, s in zip(GRID, size, strict=True)])
    draw = lambda key: integers(key, (number, 2), maxval=most)
    return np.asarray(jax.vmap(draw)(keys))

  def block(corner, size):
    mask = np.zeros(GRID, bool)
    ends = [c + s for c, s in zip(corner, size, strict=True)]
    mask[corner[0] : ends[0], corner[1] : ends[1]] = True
    return mask.reshape(-1)

  of_target, of_context = jax.random.split(jax.random.fold_in(key, 2**31 - 1))
  size = size_of(of_target, (0.15, 0.2), (0.75, 1.5))
  around = size_of(of_context, scale, (1, 1))
  of_image = lambda i: jax.random.split(jax.random.fold_in(key, i), 3)
  keys = jax.vmap(of_image)(jnp.arange(count))
  targets = np.array(
    [
      [block(x, size) for x in places]
      for places in corners(keys[:, 0], 4, size)
    ]
  )
  contexts = []
  for hidden, places in zip(
    targets, corners(keys[:, 1], 100, around), strict=True
  ):
    for tries, corner in enumerate(places):
      context = block(corner, around)
      # After 20 places, one target fewer counts.
      if mistake != "a context with the targets":
        context &= ~hidden[: 4 - tries // 20].any(0)
      if context.sum() > 5:
        break
    contexts.append(context)
  return np.array(contexts), targets


@pytest.mark.parametrize(
  ("grid", "scale", "aspect"),
  [
    ((14, 14), (0.15, 0.2), (0.75, 1.5)),
    ((16, 16), (0.85, 1.0), (1.0, 1.0)),
    ((8, 12), (0.1, 0.6), (0.3, 3.0)),
  ],
)
def test_sizes_are_those_of_the_official_rule(grid, scale, aspect):
  found = regions.sizes(grid, scale, aspect)
  for i in range(0, 4096, 37):
    expected = official_size(grid, scale, aspect, (i + 0.5) / 4096)
    assert tuple(found[i]) == expected


@pytest.mark.parametrize(
  ("scale", "limit"), [((0.2, 0.5), 1.0), ((0.85, 1.0), 0.3)]
)
def test_blocks_are_drawn_as_in_the_official_code(scale, limit):
  method = build(model__context_scale=scale, model__context_limit=limit)
  sizes, fewer = set(), False
  for seed in range(8):
    key = jax.random.key(seed)
    blocks = drawn(method, jnp.zeros((64, 16, 16, 3)), key)
    context, targets = masks(blocks)
    expected, expected_targets = official_masks(key, 64, scale)
    np.testing.assert_array_equal(targets, expected_targets)
    np.testing.assert_array_equal(blocks.hidden, targets.any(axis=1))
    # Where there is no room, some are left out.
    least = np.minimum(expected.sum(1), int(limit * PATCHES))
    np.testing.assert_array_equal(context.sum(1), least)
    assert np.all(context <= expected)
    sizes |= set(targets.sum(-1).reshape(-1).tolist())
    fewer |= np.any(context & targets.any(1))
  assert sizes == {9, 12}
  # Little is left of a small context, so that not all targets count.
  assert fewer == (scale == (0.2, 0.5))


def test_places_depend_on_the_place_in_the_batch_alone():
  method, key = build(), jax.random.key(5)
  whole = drawn(method, jnp.zeros((6, 16, 16, 3)), key)

  @jax.jit
  def later():
    run = run_of(method, (jnp.zeros((3, 16, 16, 3)),), key)
    run.keys = augment.example_keys(key, jnp.arange(3, 6))
    return method.blocks(run)

  part = later()
  for name in ("context", "shown", "targets", "hidden"):
    whole_rows = getattr(whole, name)[3:]
    np.testing.assert_array_equal(getattr(part, name), whole_rows)
  np.testing.assert_array_equal(part.asked, whole.asked)


def test_chance_decides_what_too_large_a_context_loses():
  mask = jnp.arange(20) % 4 != 3  # 15 of 20
  keys = jax.random.split(jax.random.key(0), 3000)
  choose = jax.vmap(lambda key: regions.chosen(key, mask, 6))
  patches, valid = choose(keys)
  assert np.all(valid)
  counts = np.bincount(np.asarray(patches).reshape(-1), minlength=20)
  assert np.all(counts[3::4] == 0)
  np.testing.assert_allclose(counts[mask] / 3000, 6 / 15, atol=0.05)
  patches, valid = regions.chosen(keys[0], mask, 18)
  assert valid.sum() == 15 and np.all(valid[:15])
  assert sorted(patches[:15].tolist()) == np.flatnonzero(mask).tolist()
