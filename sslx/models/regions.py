"""Rectangles of patches: what I-JEPA's context and its targets are made of.

All shapes are static. A list of patches has room for the largest rectangle, and
says which of its places are filled.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# The random number that sets a rectangle's size is one of so many.
_SIZES = 4096
# Places that are tried before a context is allowed to see a target.
_TRIES = 20

Range = tuple[float, float]


def sizes(grid: tuple[int, int], scale: Range, aspect: Range) -> np.ndarray:
  """Lists the sizes of rectangles: one for each random number of the rule.

  One number in [0, 1) sets both the share of the grid and the aspect ratio, as
  in the official code. A rectangle is lower and narrower than the grid.

  Args:
    grid: rows and columns of patches.
    scale: the least and the greatest share of the patches.
    aspect: the least and the greatest ratio of rows to columns.

  Returns:
    i32[4096, 2], rows and columns, all equally likely.
  """
  u = (np.arange(_SIZES) + 0.5) / _SIZES
  between = lambda ends: ends[0] + u * (ends[1] - ends[0])
  area, ratio = np.floor(grid[0] * grid[1] * between(scale)), between(aspect)
  found = np.round(np.sqrt(np.stack([area * ratio, area / ratio], axis=1)))
  return np.minimum(found, np.array(grid) - 1).astype(np.int32)


def drawn(key: jax.Array, sizes: np.ndarray) -> jax.Array:
  """Draws one of the sizes, i32[2]."""
  return jnp.asarray(sizes)[jax.random.randint(key, (), 0, len(sizes))]


def corners(
  key: jax.Array, size: jax.Array, grid: tuple[int, int], count: int
) -> jax.Array:
  """Draws where rectangles of a size begin: row and column, i32[count, 2].

  As in the official code, a rectangle never ends at the last row or column.
  """
  return jax.random.randint(key, (count, 2), 0, jnp.array(grid) - size)


def inside(
  corner: jax.Array, size: jax.Array, grid: tuple[int, int]
) -> jax.Array:
  """Tells which patches are in a rectangle: bool[rows * columns]."""
  places = jnp.indices(grid).reshape(2, -1).T - corner
  return jnp.all((places >= 0) & (places < size), axis=1)


def patches(
  corner: jax.Array, size: jax.Array, grid: tuple[int, int], count: int
) -> jax.Array:
  """Lists the patches of a rectangle, row by row: i32[count].

  After the last one come patches that are not in it.
  """
  place = jnp.arange(count)
  row, column = corner[0] + place // size[1], corner[1] + place % size[1]
  return jnp.minimum(row * grid[1] + column, grid[0] * grid[1] - 1)


def context(
  key: jax.Array,
  size: jax.Array,
  targets: jax.Array,
  grid: tuple[int, int],
  least: int,
) -> jax.Array:
  """Draws a rectangle without the targets: bool[n], of the n patches.

  If 20 places leave too few patches, the last target no longer counts, then the
  one before it, as in the official code.

  Args:
    key: a key of the image.
    size: i32[2], rows and columns of the rectangle.
    targets: bool[m, n], the patches of each target.
    grid: rows and columns of patches, n in all.
    least: more patches than this are left.
  """
  levels = len(targets) + 1
  places = corners(key, size, grid, levels * _TRIES)
  blocks = jax.vmap(lambda corner: inside(corner, size, grid))(places)
  # From all targets to none.
  hidden = [jnp.any(targets[:m], axis=0) for m in reversed(range(levels))]
  left = blocks & ~jnp.repeat(jnp.stack(hidden), _TRIES, axis=0)
  enough = jnp.sum(left, axis=1) > least
  return left[jnp.argmax(enough)]  # The first.


def chosen(
  key: jax.Array, mask: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """Lists the patches of a mask bool[n] in random order.

  Returns:
    i32[count] patches, of which those of the mask come first; bool[count],
    whether each is one of the mask. If the mask has more than `count`, chance
    decides which are left out.
  """
  noise = jax.random.uniform(key, mask.shape)
  order = jnp.argsort(jnp.where(mask, noise, 2.0))[:count]
  return order, mask[order]
