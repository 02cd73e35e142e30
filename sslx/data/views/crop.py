"""A random crop, the view of most methods."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslx.config import require
from sslx.data import augment
from sslx.data.augment import between
from sslx.data.views.base import require_probability
from sslx.data.views.coloured import Coloured

Array = jax.Array

TRIES = 10
BOX_UNIFORMS = 2 * TRIES + 2  # random numbers per image for `random_boxes`


@dataclasses.dataclass(frozen=True)
class Crop(Coloured):
  """A crop of random area and ratio, resized to a square, and a flip.

  Attributes:
    crop_scale: least and greatest area of the crop / area of the image.
    crop_ratio: least and greatest width / height of the crop.
    flip: probability that it is mirrored left to right.
  """

  num_uniforms = BOX_UNIFORMS + 1
  free = (*Coloured.free, "size")

  crop_scale: tuple[float, float] = (0.08, 1.0)
  crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: float = 0.5

  def __post_init__(self):
    super().__post_init__()
    for name in ("crop_scale", "crop_ratio"):
      low, high = getattr(self, name)
      require(self, name, 0 < low <= high, "(low, high) with 0 < low <= high")
    require(self, "crop_scale", self.crop_scale[1] <= 1, "at most 1")
    require_probability(self, "flip")

  def boxes(
    self, uniforms: Any, height: Any, width: Any, xp: Any = np
  ) -> tuple[Any, Any]:
    """See `View`."""
    places, flips = uniforms[:, :BOX_UNIFORMS], uniforms[:, BOX_UNIFORMS]
    boxes = random_boxes(self, places, height, width, xp)
    return boxes[:, None], flips < self.flip

  def uniforms(self, keys: Array) -> Array:
    """See `View`; the flip has a stream of its own."""
    streams = (augment.BOX, BOX_UNIFORMS), (augment.FLIP, 1)
    found = [augment.uniforms(keys, *stream) for stream in streams]
    return jnp.concatenate(found, axis=1)


def random_boxes(
  view: Crop, uniforms: Any, height: Any, width: Any, xp: Any = np
) -> Any:
  """Random boxes i32[b, 4], (top, left, height, width), inside their images.

  The rule is that of torchvision's RandomResizedCrop, after Szegedy et al. 2014
  (GoogLeNet), section 6. Area and ratio are drawn ten times, and the first box
  that fits is used, at a uniform position. If none fits, the largest central
  box with a ratio in range is used.

  Args:
    view: sets `crop_scale` and `crop_ratio`.
    uniforms: float[b, BOX_UNIFORMS] in [0, 1).
    height: heights of the images: a number, or [b].
    width: widths of the images: a number, or [b].
    xp: numpy or jax.numpy.
  """
  b = uniforms.shape[0]
  image = xp.stack(
    [
      xp.broadcast_to(xp.asarray(x, uniforms.dtype), b) for x in (height, width)
    ],
    axis=1,
  )  # [b, 2]
  area, ratio, place = xp.split(uniforms, [TRIES, 2 * TRIES], axis=1)
  area = between(*view.crop_scale, area) * image[:, :1] * image[:, 1:]
  ratio = xp.exp(between(*map(math.log, view.crop_ratio), ratio))
  tries = xp.round(xp.sqrt(xp.stack([area / ratio, area * ratio], axis=2)))
  fits = ((tries > 0) & (tries <= image[:, None])).all(axis=2)
  first = xp.argmax(fits, axis=1)[:, None, None]
  drawn = xp.take_along_axis(tries, first, axis=1)[:, 0]
  # place < 1, so the corner is at most image - drawn.
  corner = xp.floor(place * (image - drawn + 1))
  narrow, broad = view.crop_ratio
  limits = xp.stack([image[:, 1] / narrow, image[:, 0] * broad], axis=1)
  # At least one pixel, because an image can be thinner than any ratio in range.
  central = xp.maximum(xp.minimum(image, xp.round(limits)), 1)
  central = xp.concatenate([(image - central) // 2, central], axis=1)
  drawn = xp.concatenate([corner, drawn], axis=1)
  found = fits.any(axis=1, keepdims=True)
  return xp.where(found, drawn, central).astype(xp.int32)
