"""Patches of images: conversion, projection, and positions."""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sslx.axis import Axis
from sslx.models import heads, transformer

WeightInit = Literal["xavier", "xavier_qkv", "normal", "normal_all"]
FEATURES = ("cls", "pooled", "cls+pooled")


def patchify(images: jax.Array, size: int) -> jax.Array:
  """Cuts [b, h, w, 3] into [b, n, size * size * 3], both row by row."""
  b, h, w, c = images.shape
  x = images.reshape(b, h // size, size, w // size, size, c)
  return x.swapaxes(2, 3).reshape(b, -1, size * size * c)


def unpatchify(
  patches: jax.Array, size: int, grid: tuple[int, int]
) -> jax.Array:
  """Assembles [b, n, size * size * 3] into [b, h, w, 3]."""
  h, w = grid
  x = patches.reshape(len(patches), h, w, size, size, -1).swapaxes(2, 3)
  return x.reshape(len(patches), h * size, w * size, -1)


def completed(
  images: jax.Array, predicted: jax.Array, masked: jax.Array
) -> jax.Array:
  """Draws images, their visible patches, and these with predictions between.

  Args:
    images: f32[b, s, s, c].
    predicted: f32[b, n, p p c], patches in the order of `patchify`.
    masked: f32[b, n], 1 for a masked patch, 0 for a visible one.

  Returns:
    f32[3, b, s, s, c].
  """
  size = math.isqrt(predicted.shape[-1] // images.shape[-1])
  grid = (images.shape[1] // size, images.shape[2] // size)
  original, masked = patchify(images, size), masked[..., None]
  seen = original * (1 - masked)
  rows = (original, seen, seen + predicted * masked)
  return jnp.stack([unpatchify(x, size, grid) for x in rows])


def taken(x: jax.Array, indices: jax.Array) -> jax.Array:
  """Takes rows `indices` i32[b, k] of each example of x[b, n, d]: [b, k, d]."""
  return jnp.take_along_axis(
    x, indices[..., None], axis=1, mode="promise_in_bounds"
  )


def masked(
  patches: jax.Array, mask: jax.Array, token: jax.Array, axis: Axis
) -> jax.Array:
  """Replaces the patches of [b, k, d] in a mask bool[b, k] by f32[1, 1, d].

  Raises:
    ValueError: the mask has another shape.
  """
  if mask.shape != patches.shape[:2]:
    raise ValueError(
      f"mask has shape {mask.shape}; it must be {patches.shape[:2]}, a truth"
      " value for each encoded patch."
    )
  hidden = transformer.repeated(token, patches.shape, patches.dtype, axis)
  return jnp.where(mask[..., None], hidden, patches)


def random_order(keys: jax.Array, patches: int) -> tuple[jax.Array, jax.Array]:
  """Draws a random order of the patches of each example.

  Args:
    keys: [b] keys of the examples.
    patches: n, the number of patches.

  Returns:
    i32[b, n], the patches in that order, the visible ones first; i32[b, n], the
    inverse: the place of each patch in that order.
  """
  noise = jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)
  order = jnp.argsort(noise, axis=1)
  return order, jnp.argsort(order, axis=1)


def moments(patches: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns mean and standard deviation of each patch [b, n, d]: f32[b, n, 1].

  The variance is unbiased (divided by d - 1): torch's default, which MAE's
  official code uses.
  """
  mean = jnp.mean(patches, axis=-1, keepdims=True)
  var = jnp.var(patches, axis=-1, keepdims=True, ddof=1)
  return mean, jnp.sqrt(var + 1e-6)


def prepend(first: jax.Array, x: jax.Array) -> jax.Array:
  """Puts tokens [1 or b, t, d] before x[b, n, d]: [b, t + n, d]."""
  shape = (len(x), *first.shape[1:])
  first = jnp.broadcast_to(first.astype(x.dtype), shape)
  return jnp.concatenate([first, x], axis=1)


def without_registers(tokens: jax.Array, registers: int) -> jax.Array:
  """Removes the registers from [b, 1 + registers + n, d]: [b, 1 + n, d]."""
  if not registers:
    return tokens
  return jnp.concatenate([tokens[:, :1], tokens[:, 1 + registers :]], axis=1)


def pooled(
  tokens: jax.Array, class_token: bool, before: int
) -> dict[str, jax.Array]:
  """Computes `FEATURES` of the tokens of a ViT.

  Args:
    tokens: [b, before + n, d].
    class_token: whether the first token is the class token; if not, "pooled" is
      the only feature.
    before: number of tokens before the patches. Only the class token and the
      patches contribute to features.
  """
  mean = jnp.mean(tokens[:, before:], axis=1)
  if not class_token:
    return {"pooled": mean}
  cls = tokens[:, 0]
  both = jnp.concatenate([cls, mean], axis=-1)
  return dict(zip(FEATURES, (cls, mean, both), strict=True))


def scaled(
  rows: int, columns: int, trained: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns row and column of each patch, f64[n], rescaled to another grid.

  The centres of the patches are rescaled, so that the corners of both grids
  coincide. See `ViT.image_size`.

  Args:
    rows: number of rows of patches.
    columns: number of columns of patches.
    trained: number of rows, and of columns, of the grid to rescale to.
  """
  place = lambda n: (np.arange(n) + 0.5) * trained / n - 0.5
  grid = np.meshgrid(place(rows), place(columns), indexing="ij")
  return grid[0].reshape(-1), grid[1].reshape(-1)


def sincos(
  places: tuple[np.ndarray, np.ndarray], width: int, first: str
) -> np.ndarray:
  """Computes fixed position embeddings, f32[n, width], of the patches.

  Args:
    places: row and column of each patch, f64[n].
    width: a multiple of 4.
    first: "column" or "row", of which the sines and cosines come first.
  """
  omega = 1e4 ** -(np.arange(width // 4) / (width // 4))
  row, column = (place[:, None] * omega for place in places)
  order = (column, row) if first == "column" else (row, column)
  waves = [wave(x) for x in order for wave in (np.sin, np.cos)]
  return np.concatenate(waves, axis=1).astype(np.float32)


def resized(
  positions: jax.Array, trained: tuple[int, int], grid: tuple[int, int]
) -> jax.Array:
  """Resizes learned positions f32[n, d] to another grid, f32[m, d].

  Bicubic with antialiasing; both grids cover the same area. This is timm's
  rule. DINOv2's own rule adds 0.1 to the size of the grid.
  """
  if grid == trained:
    return positions
  d = positions.shape[-1]
  x = jax.image.resize(positions.reshape(*trained, d), (*grid, d), "bicubic")
  return x.reshape(-1, d)


class PatchEmbed(nn.Module):
  """Projection of patches from [b, n, p * p * 3] to [b, n, width]."""

  width: int
  weight_init: str
  dtype: str
  axis: Axis

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Projects patches by a matrix product, since they do not overlap."""
    torch = heads.uniform(x.shape[-1] ** -0.5)
    xavier, zeros = transformer.xavier(), nn.initializers.zeros
    kernel, bias = {
      "xavier": (xavier, torch),
      "xavier_qkv": (xavier, zeros),
      "normal": (torch, torch),
      "normal_all": (nn.initializers.normal(0.02), zeros),
    }[self.weight_init]
    dense = transformer.dense(
      self.width, self.dtype, "proj", self.axis, kernel, bias_init=bias
    )
    return dense(x.astype(self.dtype))
