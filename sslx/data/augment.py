"""Random numbers of the augmentation on the device: keys and streams.

A number depends only on the seed and on the position of its example in the
global batch, not on the devices or on the other images.
"""

from __future__ import annotations

import jax

Array = jax.Array

# Streams derived from one key. Each operation uses fixed positions in its
# stream, so disabling one does not change the draws of the others. The n-th
# operation of a view's `then` has stream THEN + n; the others are far from it.
BOX, FLIP, COLOUR, THEN = range(4)
RAND_AUGMENT, ERASE, ERASED = range(2**16, 2**16 + 3)
fold = jax.vmap(jax.random.fold_in, (0, None))  # folds a number into every key


def example_keys(key: Array, positions: Array) -> Array:
  """Keys [b] from this step's key and i32[b] positions in the global batch."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def uniforms(keys: Array, stream: int, count: int) -> Array:
  """Draws f32[b, count] in [0, 1) from keys [b]."""
  draw = lambda key: jax.random.uniform(key, (count,))
  return jax.vmap(draw)(fold(keys, stream))


def normals(keys: Array, stream: int, shape: tuple[int, ...]) -> Array:
  """Draws f32[b, *shape] from N(0, 1), from keys [b]."""
  draw = lambda key: jax.random.normal(key, shape)
  return jax.vmap(draw)(fold(keys, stream))


def between(low: Array, high: Array, uniform: Array) -> Array:
  """Maps uniform numbers in [0, 1) to [low, high); of numpy or JAX."""
  return low + (high - low) * uniform
