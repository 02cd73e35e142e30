"""Settings of the views of an image, and the sampling of their boxes.

A view is cut on the host while the image is decoded (`data.crops`), or on the
device if the images are small (`data.augment`). The same code samples the boxes
for both, with numpy or jax.numpy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from sslx.config import require

# Augmentations from outside sslx, added by modules in `runtime.custom_imports`.
# Maps a name to a pure function of images, f32[b, h, w, 3] in [0, 1], and keys
# [b], which is called inside jit.
OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {}
INTERPOLATIONS = ("bilinear", "bicubic")
MOST_VIEWS = 1000  # of one kind; more is a typing error
TRIES = 10
BOX_UNIFORMS = 2 * TRIES + 2  # random numbers per image for `random_boxes`
PATCH_UNIFORMS = 2 + 9 * 2  # random numbers per image for `random_patches`
HUE = 3  # index in View.jitter, after brightness, contrast and saturation


@dataclasses.dataclass(frozen=True)
class View:
  """One kind of view of an image: how it is cropped and coloured.

  By default a view is a random crop and a flip. `jitter` holds the strengths s
  of brightness, contrast, saturation and hue. The first three are multiplied by
  U(max(0, 1-s), 1+s). Hue is shifted by U(-s, s) turns of the colour circle.
  All four are applied together, in random order, with probability
  `jitter_prob`. `flip`, `grey`, `blur` and `solarize` are probabilities. A
  value out of its range raises a ValueError.
  """

  size: int  # height and width of the view in pixels
  kind: Literal["crop"] = "crop"
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
  then: tuple[str, ...] = ()  # names of OPERATIONS to apply last

  def __post_init__(self):
    for name in ("size", "count", "blur_kernel"):
      require(self, name, getattr(self, name) >= 1, "1 or more")
    require(self, "count", self.count <= MOST_VIEWS, f"at most {MOST_VIEWS}")
    for name in ("crop_scale", "crop_ratio", "blur_sigma"):
      low, high = getattr(self, name)
      require(self, name, 0 < low <= high, "(low, high) with 0 < low <= high")
    require(self, "crop_scale", self.crop_scale[1] <= 1, "at most 1")
    _require_interpolation(self)
    for name in ("flip", "jitter_prob", "grey", "blur", "solarize"):
      _require_probability(self, name)
    require(self, "jitter", min(self.jitter) >= 0, "four strengths from 0 up")
    require(
      self, "jitter", self.jitter[HUE] <= 0.5, "0.5 or less in hue, the last"
    )
    require(self, "blur_kernel", self.blur_kernel % 2 == 1, "odd")
    known = set(self.then) <= OPERATIONS.keys()
    accepted = f"names of views.OPERATIONS, which has {sorted(OPERATIONS)}"
    require(self, "then", known, accepted)
    fits = not self.blur or self.blur_kernel // 2 < self.size
    require(self, "blur_kernel", fits, f"below 2 * size = {2 * self.size}")

  @property
  def jitters(self) -> bool:
    """Whether the colours of some images are jittered."""
    return self.jitter_prob > 0 and any(self.jitter)

  def shape(self, channels: int = 3) -> tuple[int, int, int]:
    """Shape of one view of one image."""
    return (self.size, self.size, channels)


@dataclasses.dataclass(frozen=True)
class Patches:
  """Nine patches of a 3 x 3 grid, for relative location.

  The image is resized to `resize` x `resize`, whatever its aspect ratio, and
  cropped at random to `crop` x `crop`. The crop is divided into a 3 x 3 grid,
  and each cell gives one patch of `size` x `size` at a random position. `grey`
  is the probability that the image is converted to grey (equal weights of the
  channels), so that chromatic aberration does not reveal the position.

  References:
    Doersch, Gupta and Efros, Unsupervised Visual Representation Learning by
    Context Prediction, ICCV 2015, section 3.1; numbers as in MMSelfSup.
  """

  kind: Literal["patches"]
  size: int
  resize: int
  crop: int
  grey: float = 0.0
  interpolation: Literal["bilinear", "bicubic"] = "bilinear"
  count: int = 1  # The nine patches are one view, of shape [9, size, size, 3].

  def __post_init__(self):
    for name in ("size", "resize", "crop"):
      require(self, name, getattr(self, name) >= 1, "1 or more")
    require(self, "crop", self.crop % 3 == 0, "a multiple of 3")
    require(self, "crop", self.crop <= self.resize, f"at most {self.resize}")
    cell = self.crop // 3
    require(self, "size", self.size <= cell, f"at most crop / 3 = {cell}")
    require(self, "count", self.count == 1, "1")
    _require_interpolation(self)
    _require_probability(self, "grey")

  def shape(self, channels: int = 3) -> tuple[int, int, int, int]:
    """Shape of one view of one image."""
    return (9, self.size, self.size, channels)


@dataclasses.dataclass(frozen=True)
class Centre:
  """The evaluation view: resize the short side, then crop the central square.

  Attributes:
    size: side of the square that the encoder receives.
    resize: length of the short side after the resize.
    interpolation: filter of the resize, antialiased.
  """

  size: int = 224
  resize: int = 256
  interpolation: Literal["bilinear", "bicubic"] = "bilinear"

  def __post_init__(self):
    require(self, "size", self.size >= 1, "1 or more")
    require(self, "resize", self.resize >= self.size, f"{self.size} or more")
    _require_interpolation(self)


class Slot(NamedTuple):
  """One of the arrays that a method receives.

  Attributes:
    view: index into the views of `each`.
    shuffled: whether its rows are in the order of `order.Order.shuffle` instead
      of the order of the batch.
  """

  view: int
  shuffled: bool = False


def unshuffled(views: int) -> tuple[Slot, ...]:
  """Every view once, in the order of the batch."""
  return tuple(map(Slot, range(views)))


def each(views: tuple[View | Patches, ...]) -> tuple[View | Patches, ...]:
  """One entry per view that an image gets: every kind, `count` times."""
  return tuple(view for view in views for _ in range(view.count))


def _require_interpolation(view: Any) -> None:
  known = view.interpolation in INTERPOLATIONS
  require(view, "interpolation", known, " or ".join(map(repr, INTERPOLATIONS)))


def _require_probability(view: Any, name: str) -> None:
  require(view, name, 0 <= getattr(view, name) <= 1, "a probability, 0 to 1")


def random_boxes(
  view: View, uniforms: Any, height: Any, width: Any, xp: Any = np
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


def random_patches(view: Patches, uniforms: Any, xp: Any = np) -> Any:
  """Random positions of the nine patches, i32[b, 9, 2], row by row.

  Args:
    view: sets the sizes.
    uniforms: float[b, PATCH_UNIFORMS] in [0, 1).
    xp: numpy or jax.numpy.

  Returns:
    (top, left) of each patch in the image of `resize` x `resize`.
  """
  cell = view.crop // 3
  corner = xp.floor(uniforms[:, None, :2] * (view.resize - view.crop + 1))
  offset = uniforms[:, 2:].reshape(-1, 9, 2) * (cell - view.size + 1)
  grid = xp.stack(xp.meshgrid(*[xp.arange(3)] * 2, indexing="ij"), axis=-1)
  places = corner + cell * grid.reshape(9, 2) + xp.floor(offset)
  return places.astype(xp.int32)


def patch_boxes(
  view: Patches, corners: np.ndarray, height: Any, width: Any
) -> np.ndarray:
  """The boxes of patches in the original images, float64[b, 9, 4].

  Args:
    view: sets the sizes.
    corners: int[b, 9, 2], from `random_patches`.
    height: heights of the images: a number, or [b].
    width: widths of the images: a number, or [b].
  """
  b = len(corners)
  sides = [np.broadcast_to(side, b) for side in (height, width)]
  scale = np.stack(sides, axis=1)[:, None] / view.resize
  sizes = np.broadcast_to(view.size * scale, corners.shape)
  return np.concatenate([corners * scale, sizes], axis=-1)


def centre_box(view: Centre, height: int, width: int) -> np.ndarray:
  """The box of the evaluation view, float[4]: (top, left, height, width)."""
  side = min(height, width) * view.size / view.resize
  return np.array([(height - side) / 2, (width - side) / 2, side, side])


def between(low: Any, high: Any, uniform: Any) -> Any:
  """Maps uniform numbers in [0, 1) to [low, high)."""
  return low + (high - low) * uniform
