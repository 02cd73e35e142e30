"""Image operations on the device, with given parameters.

Every operation is pure, batched over a leading axis b, and equal to
torchvision's on float tensors. Images are RGB f32[b, h, w, 3] in [0, 1].
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
_CONTRAST, _SATURATION, HUE = 1, 2, 3  # Brightness is 0.


def to_float(images: Array) -> Array:
  """Converts to float32 in [0, 1]; ValueError if neither uint8 nor float."""
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images are {images.dtype}; they must be uint8 or float.")
  return images.astype(jnp.float32)


def crop_resize(
  images: Array,
  boxes: Array,
  flips: Array,
  size: int,
  interpolation: str,
  bounded: bool = True,
) -> Array:
  """Resizes a box of each image with an antialiased filter, as Pillow does.

  The filter widens when the box is made smaller. Its weights are normalised
  over the pixels that it uses.

  Args:
    images: u8 or float [b, h, w, 3].
    boxes: [b, 4], (top, left, height, width) inside the image; integers if
      `bounded`.
    flips: bool[b], which results to mirror left to right.
    size: height and width of the results, f32[b, size, size, 3].
    interpolation: "bilinear" or "bicubic" (with a = -1/2); the results are
      clipped to [0, 1].
    bounded: whether the filter uses only the pixels of the box, as if the image
      was cropped first; otherwise also those around it.
  """
  images = to_float(images)
  top, left, tall, wide = boxes.astype(jnp.float32).T
  resize = functools.partial(_resize_matrix, _FILTERS[interpolation], size)
  rows = resize(images.shape[1], top, tall, bounded)
  columns = resize(images.shape[2], left, wide, bounded)
  columns = jnp.where(flips[:, None, None], columns[:, ::-1], columns)
  return jnp.clip(_separable(rows, columns, images), 0, 1)


def resize_crops(
  images: Array, corners: Array, resize: int, size: int, interpolation: str
) -> Array:
  """Resizes each image to a square and crops n squares from it.

  Args:
    images: u8 or float [b, h, w, 3].
    corners: i32[b, n, 2], top and left of the crops in the resized image.
    resize: height and width of the resized image, of which only the crops are
      computed.
    size: height and width of the results, f32[b, n, size, size, 3].
    interpolation: see `crop_resize`.
  """

  def matrices(length, start):  # f32[b, n, size, length]
    whole = jnp.float32([length])
    filter_ = _FILTERS[interpolation]
    matrix = _resize_matrix(filter_, resize, length, whole * 0, whole)[0]
    return matrix[start[..., None] + jnp.arange(size)]

  rows = matrices(images.shape[1], corners[..., 0])
  columns = matrices(images.shape[2], corners[..., 1])
  separable = jax.vmap(_separable, (1, 1, None), out_axes=1)
  return jnp.clip(separable(rows, columns, to_float(images)), 0, 1)


def color_jitter(
  images: Array,
  brightness: Array | None,
  contrast: Array | None,
  saturation: Array | None,
  hue: Array | None,
  order: Array,
) -> Array:
  """Jitters the colours of each image, with one order of operations per image.

  Brightness, contrast and saturation are clip(f x + (1 - f) y), where y is
  black, the mean grey of the image, or the grey of the pixel; f = 1 is the
  identity. Every image passes through three such blends, one hue shift, and
  three more blends; unused blends have f = 1. This is much cheaper than a
  branch per image.

  Args:
    images: f32[b, h, w, 3].
    brightness, contrast, saturation: f32[b], factors of 0 or more; None omits
      the operation.
    hue: f32[b], shift in turns of the colour circle, -1/2 to 1/2; None omits
      the operation.
    order: i32[b, 4], a permutation of 0 brightness, 1 contrast, 2 saturation
      and 3 hue for each image, in the order of application.
  """
  factors = (brightness, contrast, saturation, None)
  if all(factor is None for factor in factors):
    return images if hue is None else _turn_hue(images, hue)
  factors = [jnp.ones(len(images)) if f is None else f for f in factors]
  factors = jnp.take_along_axis(jnp.stack(factors, axis=1), order, axis=1)
  if hue is None:
    return _blend(images, factors, order)
  slot, turn = np.arange(4), jnp.argmax(order == HUE, axis=1)[:, None]
  before = jnp.where(slot < turn, factors, 1)
  after = jnp.where(slot > turn, factors, 1)
  images = _turn_hue(_blend(images, before[:, :3], order[:, :3]), hue)
  return _blend(images, after[:, 1:], order[:, 1:])


def grayscale(images: Array) -> Array:
  """The luma (ITU-R BT.601) of each pixel, in all three channels."""
  red, green, blue = jnp.split(images, 3, axis=-1)
  luma = 0.2989 * red + 0.587 * green + 0.114 * blue
  return jnp.broadcast_to(luma, images.shape)


def gaussian_blur(images: Array, sigma: Array, kernel: int) -> Array:
  """Applies a Gaussian blur to each image; edges are reflected.

  Args:
    images: f32[b, h, w, 3].
    sigma: f32[b], standard deviation in pixels.
    kernel: number of taps, odd.

  Raises:
    ValueError: height or width is not greater than kernel // 2.
  """
  height, width = images.shape[1:3]
  if kernel // 2 >= min(height, width):
    raise ValueError(f"a {kernel}-tap blur is too wide for {height} x {width}.")
  # Both give the same values. Matrix units make products cheap; on a CPU,
  # products take ten times as much work as sums.
  return jax.lax.platform_dependent(
    images,
    sigma,
    cpu=functools.partial(_blur_by_sums, kernel=kernel),
    default=functools.partial(_blur_by_products, kernel=kernel),
  )


def solarize(images: Array, threshold: float = 0.5) -> Array:
  """Inverts values at or above the threshold."""
  return jnp.where(images < threshold, images, 1 - images)


def normalize(
  images: Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
  """Computes (images - mean) / std per channel; images are u8 or float.

  If there is one mean, RGB images become their luma first.
  """
  images = to_float(images)
  if images.shape[-1] == 3 and len(mean) == 1:
    images = grayscale(images)[..., :1]
  return (images - jnp.array(mean)) / jnp.array(std)


def visible(images: Any) -> Any:
  """Returns RGB to look at: the first three channels, or the first as grey."""
  first = [0, 1, 2] if images.shape[-1] >= 3 else [0, 0, 0]
  return images[..., np.array(first)]


def _per_image(values: Array) -> Array:
  return values[:, None, None, None]


def _separable(rows: Array, columns: Array, images: Array) -> Array:
  """Applies matrices to rows, f32[b, s, h], and to columns, f32[b, t, w]."""
  # By default a TPU multiplies in bfloat16, whose precision is no better than
  # that of uint8.
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  images = product("bsh,bhwc->bswc", rows, images)
  return product("btw,bswc->bstc", columns, images)


def _cubic(x: Array) -> Array:
  """Cubic kernel for x >= 0.

  References:
    Keys, Cubic convolution interpolation, 1981, equation 15.
  """
  far = ((2.5 - 0.5 * x) * x - 4) * x + 2
  return jnp.where(x < 1, (1.5 * x - 2.5) * x * x + 1, (x < 2) * far)


_FILTERS = {"bilinear": lambda x: jnp.maximum(1 - x, 0), "bicubic": _cubic}


def _resize_matrix(
  filter_, size_out, size_in, start, length, bounded=True
) -> Array:
  """Matrix f32[b, size_out, size_in] that resamples [start, start + length)."""
  start, length = start[:, None, None], length[:, None, None]
  scale = length / size_out
  centre = start + (np.arange(size_out)[:, None] + 0.5) * scale
  pixel = np.arange(size_in) + 0.5
  weights = filter_(abs(pixel - centre) / jnp.maximum(scale, 1))
  if bounded:
    weights *= (pixel > start) & (pixel < start + length)
  return weights / weights.sum(-1, keepdims=True)


def _blur_by_products(images: Array, sigma: Array, kernel: int) -> Array:
  """Blurs with one banded matrix per image and axis.

  A convolution per image is far slower.
  """
  rows, columns = (_blur_matrix(sigma, n, kernel) for n in images.shape[1:3])
  return _separable(rows, columns, images)


def _blur_matrix(sigma: Array, size: int, kernel: int) -> Array:
  """Blur matrix f32[b, size, size]; taps beyond an edge are reflected."""
  i, j, last = np.arange(size)[:, None], np.arange(size), size - 1
  # Distances from output i to input j and to its reflections at the two edges.
  direct, left, right = i - j, i + j, 2 * last - i - j
  weights = 0
  for distance, exists in ((direct, True), (left, j > 0), (right, j < last)):
    tap = jnp.exp(-0.5 * (distance / sigma[:, None, None]) ** 2)
    weights += tap * (exists & (abs(distance) <= kernel // 2))
  return weights / weights.sum(-1, keepdims=True)


def _blur_by_sums(images: Array, sigma: Array, kernel: int) -> Array:
  """Blurs each channel by sums of shifted planes."""
  height, width = images.shape[1:3]
  radius = kernel // 2
  pad = (radius, radius)
  distance = np.arange(-radius, radius + 1)
  taps = jnp.exp(-0.5 * (distance / sigma[:, None]) ** 2)
  taps /= taps.sum(-1, keepdims=True)
  shifts = [(k, taps[:, k, None, None]) for k in range(kernel)]

  def blur(channel):  # f32[b, h, w]: contiguous rows, which are vectorised
    plane = jax.lax.dynamic_index_in_dim(images, channel, 3, keepdims=False)
    plane = jnp.pad(plane, ((0, 0), pad, pad), mode="reflect")
    plane = sum(tap * plane[..., k : k + width] for k, tap in shifts)
    return sum(tap * plane[:, k : k + height] for k, tap in shifts)

  # A loop, so that XLA cannot fuse later operations into the sums, which would
  # slow them down.
  channels = np.arange(images.shape[-1])
  return jnp.moveaxis(jax.lax.map(blur, channels), 0, -1)


def _grey(images: Array) -> Array:
  """One channel: the luma of RGB, the mean of other channels."""
  if images.shape[-1] == 3:
    return grayscale(images)[..., :1]
  return images.mean(-1, keepdims=True)


def _blend(images: Array, factors: Array, ops: Array) -> Array:
  """Applies n blends in sequence: f32[b, n] factors, i32[b, n] operations."""

  def slot(images, factor_and_op):
    factor, op = map(_per_image, factor_and_op)
    grey = _grey(images)
    other = jnp.where(op == _CONTRAST, grey.mean((1, 2, 3), keepdims=True), 0)
    other = jnp.where(op == _SATURATION, grey, other)
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1), None

  # A loop. XLA would fuse unrolled blends and recompute them for each channel
  # that reads them (twice as slow on a CPU).
  return jax.lax.scan(slot, images, (factors.T, ops.T))[0]


def _turn_hue(images: Array, turns: Array) -> Array:
  """Shifts the hue in HSV, without branches or tables."""
  red, green, blue = jnp.split(images, 3, axis=-1)
  top = jnp.maximum(jnp.maximum(red, green), blue)
  bottom = jnp.minimum(jnp.minimum(red, green), blue)
  chroma = top - bottom
  unit = 1 / jnp.where(chroma > 0, chroma, 1)
  hue = 4 + (red - green) * unit
  hue = jnp.where(top == green, 2 + (blue - red) * unit, hue)
  hue = jnp.where(top == red, (green - blue) * unit, hue)
  hue = hue + 6 * _per_image(turns)  # in sixths of the circle
  hue = hue - 6 * jnp.floor(hue / 6)
  # Red is full around 0, green around 2, blue around 4.
  sign, centre, offset = np.float32([[1, -1, -1], [3, 2, 4], [-1, 2, 2]])
  full = jnp.clip(sign * abs(hue - centre) + offset, 0, 1)
  return bottom + chroma * full
