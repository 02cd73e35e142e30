"""Random views of a batch of images, drawn and made on the device inside jit.

Every operation is batched over a leading axis b, pure, and equal to
torchvision's on float tensors. Images are RGB f32[b, h, w, 3] in [0, 1]; those
that come in may also be uint8. `keys` are typed PRNG keys [b], one per image:
a view depends on the seed and on the place of its example in the global batch,
never on the devices or on its neighbours.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from sslx.config import require

Array = jax.Array
Rgb = tuple[float, float, float]

# Streams of one key. An operation takes fixed places in its stream, so that
# leaving it out changes no other.
_BOX, _FLIP, _COLOUR = range(3)
_TRIES = 10
_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # brightness is 0
_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
_fold = jax.vmap(jax.random.fold_in, (0, None))  # a number into every key


@dataclasses.dataclass(frozen=True)
class View:
  """One kind of view of an image: how it is cropped and coloured.

  A bare view is a random crop and a flip. `jitter` holds the strengths s of
  brightness, contrast and saturation, which multiply by U(max(0, 1-s), 1+s),
  and of hue, which turns by U(-s, s) circles; all four happen together, with
  `jitter_prob`, in random order. `flip`, `grey`, `blur` and `solarize` are
  probabilities. A value out of its range raises a ValueError.
  """

  size: int  # of the view, size x size pixels
  count: int = 1  # views of this kind per image
  crop_scale: tuple[float, float] = (0.08, 1.0)  # crop area / image area
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # crop width / height
  interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # antialiased
  flip: float = 0.5
  jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
  jitter_prob: float = 0.8
  grey: float = 0.0
  blur: float = 0.0
  blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
  blur_kernel: int = 23  # taps, odd
  solarize: float = 0.0

  def __post_init__(self):
    for name in ("size", "count", "blur_kernel"):
      require(self, name, getattr(self, name) >= 1, "1 or more")
    for name in ("crop_scale", "crop_ratio", "blur_sigma"):
      low, high = getattr(self, name)
      require(self, name, 0 < low <= high, "(low, high) with 0 < low <= high")
    require(self, "crop_scale", self.crop_scale[1] <= 1, "at most 1")
    known = self.interpolation in _FILTERS
    require(self, "interpolation", known, " or ".join(map(repr, _FILTERS)))
    for name in ("flip", "jitter_prob", "grey", "blur", "solarize"):
      require(
        self, name, 0 <= getattr(self, name) <= 1, "a probability, 0 to 1"
      )
    require(self, "jitter", min(self.jitter) >= 0, "four strengths from 0 up")
    require(
      self, "jitter", self.jitter[_HUE] <= 0.5, "0.5 or less in hue, the last"
    )
    require(self, "blur_kernel", self.blur_kernel % 2 == 1, "odd")
    fits = not self.blur or self.blur_kernel // 2 < self.size
    require(self, "blur_kernel", fits, f"below 2 * size = {2 * self.size}")


def example_keys(key: Array, positions: Array) -> Array:
  """Keys [b] from this step's key and i32[b] places in the global batch."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, positions)


def make_views(views: tuple[View, ...], images: Array, keys: Array) -> tuple:
  """A tuple of all views of each image, f32[b, size, size, 3] each.

  Every `View` in turn, `count` times; the n-th folds n into the keys.
  """
  kinds = enumerate(view for view in views for _ in range(view.count))
  return tuple(augment(kind, images, _fold(keys, n)) for n, kind in kinds)


def augment(view: View, images: Array, keys: Array) -> Array:
  """One view of each image, f32[b, size, size, 3]: crop and flip, then colour.

  Another view of the same images needs other keys: see `make_views`.
  """
  return augment_colour(view, random_resized_crop(view, images, keys), keys)


def augment_colour(view: View, images: Array, keys: Array) -> Array:
  """What `augment` does after the crop, for views that the host has cropped.

  An operation of probability or strength 0 is not computed. An image that does
  not draw an operation keeps its pixels bit for bit.
  """
  images = _unit_float(images)
  uniforms = _uniforms(keys, _COLOUR, 10)
  jitters, orders, greys, blurs, sigmas, solarizes = uniforms[:, 4:].T

  def sometimes(uniform, probability, new):
    return jnp.where(_per_image(uniform < probability), new, images)

  if view.jitter_prob and any(view.jitter):
    strength, middle = np.array(view.jitter), np.array([1, 1, 1, 0])
    low = np.maximum(middle - strength, [0, 0, 0, -1])
    amounts = _between(low, middle + strength, uniforms[:, :4]).T
    factors = [a if s else None for a, s in zip(amounts, strength, strict=True)]
    order = jnp.asarray(_ORDERS)[(orders * len(_ORDERS)).astype(jnp.int32)]
    jittered = color_jitter(images, *factors, order)
    images = sometimes(jitters, view.jitter_prob, jittered)
  if view.grey:
    images = sometimes(greys, view.grey, grayscale(images))
  if view.blur:
    sigma = _between(*view.blur_sigma, sigmas)
    blurred = gaussian_blur(images, sigma, view.blur_kernel)
    images = sometimes(blurs, view.blur, blurred)
  if view.solarize:
    images = sometimes(solarizes, view.solarize, solarize(images))
  return images


def random_resized_crop(view: View, images: Array, keys: Array) -> Array:
  """Resizes a random box of each image to f32[b, size, size, 3], and flips."""
  boxes = sample_boxes(view, keys, *images.shape[1:3])
  flips = _uniforms(keys, _FLIP, 1)[:, 0] < view.flip
  return crop_resize(images, boxes, flips, view.size, view.interpolation)


def sample_boxes(view: View, keys: Array, height: int, width: int) -> Array:
  """Draws i32[b, 4] boxes (top, left, height, width) in height x width images.

  The rule of torchvision's RandomResizedCrop: the first of ten draws of area
  and ratio that fits, in a uniform place; if none fits, the greatest central
  box with a ratio in range (after Szegedy et al. 2014, GoogLeNet, section 6).
  """
  uniforms = _uniforms(keys, _BOX, 2 * _TRIES + 2)
  area, ratio, place = jnp.split(uniforms, [_TRIES, 2 * _TRIES], axis=1)
  area = _between(*view.crop_scale, area) * height * width
  ratio = jnp.exp(_between(*map(math.log, view.crop_ratio), ratio))
  tries = jnp.round(jnp.sqrt(jnp.stack([area / ratio, area * ratio], axis=2)))
  image = np.array([height, width])
  fits = ((tries > 0) & (tries <= image)).all(axis=2)
  first = jnp.argmax(fits, axis=1)[:, None, None]
  drawn = jnp.take_along_axis(tries, first, axis=1)[:, 0]
  # place < 1, so that the floor is never the whole of slack + 1.
  corner = jnp.floor(place * (image - drawn + 1))
  narrow, broad = view.crop_ratio
  central = np.minimum(image, np.rint([width / narrow, height * broad]))
  central = np.concatenate([(image - central) // 2, central])
  drawn = jnp.concatenate([corner, drawn], axis=1)
  found = fits.any(axis=1, keepdims=True)
  return jnp.where(found, drawn, central).astype(jnp.int32)


def crop_resize(
  images: Array, boxes: Array, flips: Array, size: int, interpolation: str
) -> Array:
  """Resizes a box of each image with an antialiased filter, as Pillow does.

  The filter widens when the box shrinks. It sees the pixels of the box alone,
  with weights normalised over them: first a crop, then a resize.

  Args:
    images: u8 or float [b, h, w, 3].
    boxes: i32[b, 4], (top, left, height, width) inside the image.
    flips: bool[b], which results to mirror left to right.
    size: height and width of the results f32[b, size, size, 3].
    interpolation: "bilinear", or "bicubic" with a = -1/2, clipped to [0, 1].
  """
  images = _unit_float(images)
  top, left, tall, wide = boxes.astype(jnp.float32).T
  resize = functools.partial(_resize_matrix, _FILTERS[interpolation], size)
  rows = resize(images.shape[1], top, tall)
  columns = resize(images.shape[2], left, wide)
  columns = jnp.where(flips[:, None, None], columns[:, ::-1], columns)
  return jnp.clip(_separable(rows, columns, images), 0, 1)


def color_jitter(
  images: Array,
  brightness: Array | None,
  contrast: Array | None,
  saturation: Array | None,
  hue: Array | None,
  order: Array,
) -> Array:
  """Changes the colours of each image, in an order of its own.

  All but hue are clip(f x + (1 - f) y), with y black, the mean grey of the
  image, or the grey of the pixel; f = 1 is the identity. So every image passes
  three such slots, one turn of hue, and three more slots, with f = 1 in those
  it has no use for: much cheaper than a branch per image.

  Args:
    images: f32[b, h, w, 3].
    brightness, contrast, saturation: f32[b], factors from 0 up.
    hue: f32[b], in circles, -1/2 to 1/2. None leaves an operation out.
    order: i32[b, 4], a permutation of 0 brightness, 1 contrast, 2 saturation,
      3 hue for each image: the first to do, the second, ...
  """
  factors = (brightness, contrast, saturation, None)
  if all(factor is None for factor in factors):
    return images if hue is None else _turn_hue(images, hue)
  factors = [jnp.ones(len(images)) if f is None else f for f in factors]
  factors = jnp.take_along_axis(jnp.stack(factors, axis=1), order, axis=1)
  if hue is None:
    return _blend(images, factors, order)
  slot, turn = np.arange(4), jnp.argmax(order == _HUE, axis=1)[:, None]
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
  """Blurs each image by f32[b] sigma, in pixels, with an odd number of taps.

  Edges are reflected; ValueError if an image is not larger than kernel // 2.
  A banded matrix per image and axis: a convolution per image is far slower.
  """
  height, width = images.shape[1:3]
  if kernel // 2 >= min(height, width):
    raise ValueError(f"a {kernel}-tap blur is too wide for {height} x {width}.")
  rows, columns = (_blur_matrix(sigma, n, kernel) for n in (height, width))
  return _separable(rows, columns, images)


def solarize(images: Array, threshold: float = 0.5) -> Array:
  """Inverts the values that are not below the threshold."""
  return jnp.where(images < threshold, images, 1 - images)


def normalize(images: Array, mean: Rgb, std: Rgb) -> Array:
  """(images - mean) / std by channel."""
  return (images - jnp.array(mean)) / jnp.array(std)


def _uniforms(keys: Array, stream: int, count: int) -> Array:
  draw = lambda key: jax.random.uniform(key, (count,))
  return jax.vmap(draw)(_fold(keys, stream))  # f32[b, count] in [0, 1)


def _between(low: float, high: float, uniform: Array) -> Array:
  return low + (high - low) * uniform


def _per_image(values: Array) -> Array:
  return values[:, None, None, None]


def _unit_float(images: Array) -> Array:
  if images.dtype == jnp.uint8:
    return images.astype(jnp.float32) / 255
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(f"images are {images.dtype}; they must be uint8 or float.")
  return images.astype(jnp.float32)


def _separable(rows: Array, columns: Array, images: Array) -> Array:
  """Applies f32[b, s, h] down and f32[b, t, w] across the images."""
  # By default a TPU multiplies in bfloat16: no better than the uint8 we have.
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  images = product("bsh,bhwc->bswc", rows, images)
  return product("btw,bswc->bstc", columns, images)


def _cubic(x: Array) -> Array:
  """Keys 1981, "Cubic convolution interpolation", equation 15, for x >= 0."""
  far = ((2.5 - 0.5 * x) * x - 4) * x + 2
  return jnp.where(x < 1, (1.5 * x - 2.5) * x * x + 1, (x < 2) * far)


_FILTERS = {"bilinear": lambda x: jnp.maximum(1 - x, 0), "bicubic": _cubic}


def _resize_matrix(filter_, size_out, size_in, start, length) -> Array:
  """f32[b, size_out, size_in] that resamples [start, start + length)."""
  start, length = start[:, None, None], length[:, None, None]
  scale = length / size_out
  centre = start + (np.arange(size_out)[:, None] + 0.5) * scale
  pixel = np.arange(size_in) + 0.5
  weights = filter_(abs(pixel - centre) / jnp.maximum(scale, 1))
  weights *= (pixel > start) & (pixel < start + length)
  return weights / weights.sum(-1, keepdims=True)


def _blur_matrix(sigma: Array, size: int, kernel: int) -> Array:
  """f32[b, size, size]: the taps, with those past either edge reflected."""
  i, j, last = np.arange(size)[:, None], np.arange(size), size - 1
  # Distances from output i to input j and to its images in the two mirrors.
  direct, left, right = i - j, i + j, 2 * last - i - j
  weights = 0
  for distance, exists in ((direct, True), (left, j > 0), (right, j < last)):
    tap = jnp.exp(-0.5 * (distance / sigma[:, None, None]) ** 2)
    weights += tap * (exists & (abs(distance) <= kernel // 2))
  return weights / weights.sum(-1, keepdims=True)


def _blend(images: Array, factors: Array, ops: Array) -> Array:
  """One blend after another: f32[b, n] factors of i32[b, n] operations."""

  def slot(images, factor_and_op):
    factor, op = map(_per_image, factor_and_op)
    grey = grayscale(images)[..., :1]
    other = jnp.where(op == _CONTRAST, grey.mean((1, 2, 3), keepdims=True), 0)
    other = jnp.where(op == _SATURATION, grey, other)
    return jnp.clip(factor * images + (1 - factor) * other, 0, 1), None

  # A loop: slots written out would be fused into each other, and computed
  # again for each channel that reads them (twice as slow on a CPU).
  return jax.lax.scan(slot, images, (factors.T, ops.T))[0]


def _turn_hue(images: Array, turns: Array) -> Array:
  """To HSV, round the circle, and back, with neither branch nor table."""
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
