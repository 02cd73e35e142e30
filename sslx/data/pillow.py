"""Pillow's operations on bytes, on the device, several in one batch.

Images are RGB f32[b, h, w, 3] with whole numbers from 0 to 255. `op` i32[b]
says which operation each image gets, and `argument` f32[b] its argument. A
function computes the operations of one kind, and gives an image of another kind
arbitrary pixels. Results are as Pillow's before it drops their fractions.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_LUMA = np.float32([19595, 38470, 7471]) / 2**16  # exact
_BYTES = np.arange(256)[:, None]


class Op(enum.IntEnum):
  """The operations, in timm's order."""

  AUTOCONTRAST = 0
  EQUALIZE = 1
  INVERT = 2
  ROTATE = 3
  POSTERIZE = 4
  SOLARIZE = 5
  SOLARIZE_ADD = 6
  COLOUR = 7
  CONTRAST = 8
  BRIGHTNESS = 9
  SHARPNESS = 10
  SHEAR_X = 11
  SHEAR_Y = 12
  TRANSLATE_X = 13
  TRANSLATE_Y = 14


PLAIN = (Op.AUTOCONTRAST, Op.EQUALIZE, Op.INVERT)  # without an argument
TABLES = (*PLAIN, Op.POSTERIZE, Op.SOLARIZE, Op.SOLARIZE_ADD)
MOVES = (Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y)
BLENDS = (Op.COLOUR, Op.CONTRAST, Op.BRIGHTNESS, Op.SHARPNESS)


def by_table(images: Array, op: Array, argument: Array) -> Array:
  """Replaces each byte of a channel by another one."""
  b, h, w, c = images.shape
  values = images.reshape(b, h * w, c).astype(jnp.int32)
  counts = jax.lax.platform_dependent(
    values, tpu=_counts_by_comparison, default=_counts_by_scatter
  )
  op, argument = (x[:, None, None] for x in (op, argument.astype(jnp.int32)))
  drop = 8 - argument  # bits
  made = {
    Op.AUTOCONTRAST: _stretched(counts),
    Op.EQUALIZE: _equalized(counts),
    Op.INVERT: 255 - _BYTES,
    Op.POSTERIZE: _BYTES >> drop << drop,
    Op.SOLARIZE: jnp.where(_BYTES < argument, _BYTES, 255 - _BYTES),
    Op.SOLARIZE_ADD: jnp.where(
      _BYTES < 128, jnp.minimum(_BYTES + argument, 255), _BYTES
    ),
  }
  table = jnp.select([op == x for x in made], list(made.values()), _BYTES)
  table = jnp.broadcast_to(table, counts.shape)
  found = jax.lax.platform_dependent(
    table, values, tpu=_looked_up_by_comparison, default=_looked_up
  )
  return found.reshape(images.shape).astype(jnp.float32)


def _counts_by_scatter(values: Array) -> Array:
  """Counts the values 0 to 255 in i32[b, n, c]: i32[b, 256, c]."""
  channels = values.shape[-1]
  none = jnp.zeros((256, channels), jnp.int32)
  return jax.vmap(lambda x: none.at[x, np.arange(channels)].add(1))(values)


def _counts_by_comparison(values: Array) -> Array:
  """As `_counts_by_scatter`; a TPU scatters one number after another."""
  same = values[:, :, None] == _BYTES
  return jnp.sum(same, axis=1, dtype=jnp.int32)


def _looked_up(table: Array, values: Array) -> Array:
  """Takes table[b, value, c] for each value of i32[b, n, c]."""
  return jnp.take_along_axis(table, values, axis=1, mode="promise_in_bounds")


def _looked_up_by_comparison(table: Array, values: Array) -> Array:
  """As `_looked_up`; a TPU gathers one number after another."""
  same = values[:, :, None] == _BYTES
  return jnp.sum(jnp.where(same, table[:, None], 0), axis=2)


def _stretched(counts: Array) -> Array:
  """The table of autocontrast: the values that there are become 0 to 255."""
  low, high = _ends(counts)
  span = high - low
  table = (_BYTES - low) * 255 // jnp.maximum(span, 1)
  return jnp.where(span > 0, jnp.clip(table, 0, 255), _BYTES)


def _equalized(counts: Array) -> Array:
  """The table of histogram equalisation: all values become equally common."""
  _, high = _ends(counts)
  last = jnp.take_along_axis(counts, high, axis=1)
  step = (jnp.sum(counts, axis=1, keepdims=True) - last) // 255
  below = jnp.cumsum(counts, axis=1) - counts
  table = (step // 2 + below) // jnp.maximum(step, 1)
  return jnp.where(step > 0, jnp.minimum(table, 255), _BYTES)


def _ends(counts: Array) -> tuple[Array, Array]:
  """The least and the greatest value that there is, i32[b, 1, c]."""
  there = counts > 0
  low = jnp.argmax(there, axis=1, keepdims=True)
  return low, 255 - jnp.argmax(there[:, ::-1], axis=1, keepdims=True)


def move(images: Array, op: Array, argument: Array, fill: Array) -> Array:
  """Rotates about the centre, shears from the corner, or translates.

  Bilinear. timm chooses between bilinear and bicubic at random.
  """
  _, h, w, _ = images.shape
  # Where each pixel of the result comes from; a pixel's centre is at 1/2.
  op, by = (x[:, None, None] for x in (op, argument))
  y, x = np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij")
  y, x = np.float32(y), np.float32(x)
  cos, sin = jnp.cos(jnp.radians(by)), jnp.sin(jnp.radians(by))
  down, right = y - h / 2, x - w / 2
  columns = {
    Op.ROTATE: w / 2 + cos * right - sin * down,
    Op.SHEAR_X: x + by * y,
    Op.TRANSLATE_X: x + by * w,
  }
  rows = {
    Op.ROTATE: h / 2 + sin * right + cos * down,
    Op.SHEAR_Y: y + by * x,
    Op.TRANSLATE_Y: y + by * h,
  }
  x = jnp.select([op == o for o in columns], list(columns.values()), x)
  y = jnp.select([op == o for o in rows], list(rows.values()), y)
  inside = (0 <= x) & (x < w) & (0 <= y) & (y < h)
  return jnp.where(inside[..., None], _bilinear(images, y - 0.5, x - 0.5), fill)


def _bilinear(images: Array, y: Array, x: Array) -> Array:
  """Interpolates between pixels; beyond an edge, the pixel at the edge.

  Args:
    images: f32[b, h, w, c].
    y: f32[b, h, w], row; 0 is the first.
    x: f32[b, h, w], column.
  """
  b, h, w, c = images.shape
  flat = images.reshape(b, h * w, c)
  top, left = jnp.floor(y), jnp.floor(x)

  def at(row: Array, column: Array) -> Array:
    row, column = jnp.clip(row, 0, h - 1), jnp.clip(column, 0, w - 1)
    place = (row * w + column).astype(jnp.int32).reshape(b, h * w, 1)
    found = jnp.take_along_axis(flat, place, 1, mode="promise_in_bounds")
    return found.reshape(b, h, w, c)

  def between(first: Array, second: Array, share: Array) -> Array:
    return first + share[..., None] * (second - first)

  upper, lower = (
    between(at(row, left), at(row, left + 1), x - left)
    for row in (top, top + 1)
  )
  return between(upper, lower, y - top)


def blend(images: Array, op: Array, argument: Array) -> Array:
  """Goes from another image towards this one, or beyond it."""
  op, factor = (x[:, None, None, None] for x in (op, argument))
  red, green, blue = jnp.split(images, 3, axis=-1)
  luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
  luma = jnp.floor(luma + 0.5)
  mean = jnp.floor(jnp.mean(luma, (1, 2, 3), keepdims=True) + 0.5)
  others = {
    Op.COLOUR: luma,
    Op.CONTRAST: mean,
    Op.SHARPNESS: _smoothed(images),
  }
  black = jnp.zeros((), images.dtype)
  other = jnp.select([op == x for x in others], list(others.values()), black)
  return jnp.clip(other + factor * (images - other), 0, 255)


def _smoothed(images: Array) -> Array:
  """The mean of 3 x 3 pixels, the middle one 5 times; edges are as before."""
  rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
  sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
  sums += 4 * images[:, 1:-1, 1:-1]
  return images.at[:, 1:-1, 1:-1].set(jnp.floor(sums / 13 + 0.5))
