"""Masks of patches, drawn from the keys of the examples."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from sslx.axis import Axis

_ASPECT = (0.3, 1 / 0.3)  # Height by width of a block.
_ATTEMPTS = 10  # In a row that fail before a mask is left as it is.


def blocks(
  keys: jax.Array,
  counts: jax.Array,
  grid: tuple[int, int],
  least: int,
  axis: Axis,
) -> jax.Array:
  """Masks rectangles of patches, one after another.

  A rectangle has an area between `least` and what is left to mask, a random
  shape and place. It is refused if it is as high or as wide as the grid, or
  masks nothing new or too much. After ten refusals in a row the mask may have
  fewer patches than it should; it never has more.

  Args:
    keys: [b] keys of the examples.
    counts: f32[b], the number of patches to mask; none if below 1.
    grid: rows and columns of patches.
    least: least area that is drawn, in patches: 16 in BEiT, 4 in DINOv2.
    axis: the data axis.

  Returns:
    bool[b, rows * columns], True for a masked patch.

  References:
    Bao et al., BEiT, ICLR 2022, algorithm 1, as its code has it.
  """
  one = lambda key, count: _blocks(key, count, grid, least)
  return axis.by_example(jax.vmap(one), keys, counts)


def _blocks(
  key: jax.Array, count: jax.Array, grid: tuple[int, int], least: int
) -> jax.Array:
  """Masks the patches of one example, bool[rows * columns]."""
  rows, columns = grid
  row, column = jnp.indices(grid).reshape(2, -1)
  low, high = map(math.log, _ASPECT)

  def unfinished(state: tuple[jax.Array, ...]) -> jax.Array:
    mask, _, failed = state
    return (jnp.sum(mask) < jnp.floor(count)) & (failed < _ATTEMPTS)

  def attempt(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    mask, tried, failed = state
    left = count - jnp.sum(mask)
    u = jax.random.uniform(jax.random.fold_in(key, tried), (4,))
    area = least + (left - least) * u[0]
    aspect = jnp.exp(low + (high - low) * u[1])
    h = jnp.round(jnp.sqrt(area * aspect))
    w = jnp.round(jnp.sqrt(area / aspect))
    top = jnp.floor(u[2] * (rows - h + 1))
    start = jnp.floor(u[3] * (columns - w + 1))
    inside = (row >= top) & (row < top + h)
    inside &= (column >= start) & (column < start + w)
    added = jnp.sum(inside & ~mask)
    fits = (h < rows) & (w < columns) & (added > 0) & (added <= left)
    mask = jnp.where(fits, mask | inside, mask)
    return mask, tried + 1, jnp.where(fits, 0, failed + 1)

  # Derived from the count, so that they too vary over the devices.
  zero = (count * 0).astype(jnp.int32)
  nothing = jnp.zeros(rows * columns, bool) | (zero > 0)
  return jax.lax.while_loop(unfinished, attempt, (nothing, zero, zero))[0]


def indices(mask: jax.Array, share: float) -> tuple[jax.Array, jax.Array]:
  """Finds the masked patches of each example, in a fixed number of places.

  Args:
    mask: bool[b, n], True for a masked patch.
    share: the greatest share of masked patches that an example can have.

  Returns:
    i32[b, m], numbers of patches, the masked ones first; f32[b, m], their
    weights in a mean over the masked patches of their example, 0 for a patch
    that is not masked. m is that share of n.
  """
  most = int(share * mask.shape[1] + 1e-3)
  order = jnp.argsort(~mask, axis=1, stable=True)[:, :most]
  number = jnp.sum(mask, axis=1, keepdims=True)
  masked = jnp.arange(most) < number
  return order, masked / jnp.maximum(number, 1).astype(jnp.float32)
