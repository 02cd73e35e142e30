"""Nine patches of a grid, whose places relative to each other are learned."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslx.config import require
from sslx.data import augment, operations
from sslx.data.views.base import View, require_probability

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Patches(View):
  """Nine patches of a 3 x 3 grid, for relative location.

  The image is resized to `resize` x `resize`, whatever its aspect ratio, and
  cropped at random to `crop` x `crop`. The crop is divided into a 3 x 3 grid,
  and each cell gives one patch of `size` x `size` at a random position. `grey`
  is the probability that the image is converted to grey (equal weights of the
  channels), so that chromatic aberration does not reveal the position. The nine
  patches are one view.

  References:
    Doersch, Gupta and Efros, Unsupervised Visual Representation Learning by
    Context Prediction, ICCV 2015, section 3.1; numbers as in MMSelfSup.
  """

  num_uniforms = 2 + 9 * 2
  bounded = False
  free = (*View.free, "grey")

  resize: int
  crop: int
  grey: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    for name in ("resize", "crop"):
      require(self, name, getattr(self, name) >= 1, "1 or more")
    require(self, "crop", self.crop % 3 == 0, "a multiple of 3")
    require(self, "crop", self.crop <= self.resize, f"at most {self.resize}")
    cell = self.crop // 3
    require(self, "size", self.size <= cell, f"at most crop / 3 = {cell}")
    require(self, "count", self.count == 1, "1")
    require_probability(self, "grey")

  @property
  def needs_rgb(self) -> bool:
    """See `View`."""
    return self.grey > 0

  def shape(self, channels: int = 3) -> tuple[int, int, int, int]:
    """Shape of the nine patches of one image."""
    return (9, self.size, self.size, channels)

  def corners(self, uniforms: Any, xp: Any = np) -> Any:
    """Random positions of the nine patches, i32[b, 9, 2], row by row.

    Args:
      uniforms: float[b, num_uniforms] in [0, 1).
      xp: numpy or jax.numpy.

    Returns:
      (top, left) of each patch in the image of `resize` x `resize`.
    """
    cell = self.crop // 3
    corner = xp.floor(uniforms[:, None, :2] * (self.resize - self.crop + 1))
    offset = uniforms[:, 2:].reshape(-1, 9, 2) * (cell - self.size + 1)
    grid = xp.stack(xp.meshgrid(*[xp.arange(3)] * 2, indexing="ij"), axis=-1)
    places = corner + cell * grid.reshape(9, 2) + xp.floor(offset)
    return places.astype(xp.int32)

  def boxes(
    self, uniforms: Any, height: Any, width: Any, xp: Any = np
  ) -> tuple[Any, Any]:
    """Boxes in the original images, float[b, 9, 4]; never mirrored."""
    corners = self.corners(uniforms, xp)
    b = len(corners)
    sides = [xp.broadcast_to(xp.asarray(side), b) for side in (height, width)]
    scale = xp.stack(sides, axis=1)[:, None] / self.resize
    sizes = xp.broadcast_to(self.size * scale, corners.shape)
    boxes = xp.concatenate([corners * scale, sizes], axis=-1)
    return boxes, xp.zeros(b, bool)

  def cut(self, images: Array, keys: Array) -> Array:
    """Cuts nine patches of each image, f32[b, 9, size, size, 3]."""
    corners = self.corners(self.uniforms(keys), jnp)
    sizes = self.resize, self.size
    return operations.resize_crops(images, corners, *sizes, self.interpolation)

  def colour(self, cut: Array, keys: Array) -> Array:
    """Replaces colour by the mean of the channels, in all patches or none."""
    patches = operations.to_float(cut)
    if not self.grey:
      return patches
    grey = patches.mean(-1, keepdims=True)
    greyed = self.greyed(keys).reshape(-1, 1, 1, 1, 1)
    return jnp.where(greyed, grey, patches)

  def greyed(self, keys: Array) -> Array:
    """Samples bool[b]: which images are converted to grey."""
    return augment.uniforms(keys, augment.COLOUR, 1)[:, 0] < self.grey

  def told(self, keys: Array) -> list[list[str]]:
    """See `View`."""
    return [["grey"] if grey else [] for grey in self.greyed(keys)]
