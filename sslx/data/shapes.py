"""The `shapes` data set: generated figures on clutter, nothing to download.

Each image shows four copies of one figure, whose shape is the class. Everything
else is nuisance: colour; whether the figures are lighter or darker than the
ground; their positions, sizes, rotations and texture; and the texture and
clutter of the ground. No pixel has the same meaning in two images of a class,
so nearest neighbours of pixels or of an untrained network's features predict
the class poorly. But any crop still shows the shape, and little else survives
colour augmentation, so a self-supervised method learns the shape within a few
hundred steps.
"""

from __future__ import annotations

import re
import zlib
from typing import Literal

import numpy as np

# Difficulty. Lengths are fractions of the image's side; luminance is in [0, 1].
RADIUS = (0.16, 0.22)  # radius of the circle around a figure
JITTER = 0.1  # shift of a figure from its position in the 2 x 2 lattice
ROTATION = 0.25  # maximum rotation in radians, in either direction
GROUND = (0.4, 0.6)  # luminance of the ground
CONTRAST = (0.3, 0.38)  # difference in luminance of figures and ground
COLOUR = (0.1, 0.3)  # strength of the image's single hue
TEXTURE = (0.12, 0.05)  # amplitude of the noise on the ground, on the figures
GRAIN = 6  # cells of that noise along a side
CLUTTER = 4  # number of small bars under the figures
CLUTTER_SIZE = (0.05, 0.02)  # half the length and half the width of a bar
CLUTTER_CONTRAST = 0.2
NOISE = 0.02  # standard deviation of a pixel

_LUMA = np.array([0.299, 0.587, 0.114])
_CHUNK = 256  # images rendered at a time; they fit into the cache of a core


# Signed distances to figures inside the unit circle: negative inside a figure,
# exact near its edge and approximate elsewhere. Coordinates are
# f64[b, size, size]; y points down.


def _disc(x, y):
  return np.hypot(x, y) - 0.8


def _ring(x, y):
  return np.abs(np.hypot(x, y) - 0.75) - 0.17


def _plus(x, y):
  x, y = np.abs(x), np.abs(y)
  return np.maximum(np.minimum(x, y) - 0.2, np.maximum(x, y) - 0.95)


def _cross(x, y):
  return _plus((x + y) * np.sqrt(0.5), (x - y) * np.sqrt(0.5))


def _level(x, y):
  """Two bars, one over the other."""
  return np.maximum(np.abs(np.abs(y) - 0.4) - 0.18, np.abs(x) - 0.8)


def _upright(x, y):
  """Two bars side by side."""
  return _level(y, x)


def _triangle(x, y):
  """The outline of a triangle, with lines of width 0.3."""
  triangle = np.maximum(y, np.abs(x) * np.sqrt(0.75) - y / 2) - 0.35
  return np.abs(triangle) - 0.14


def _dots(x, y):
  return np.hypot(np.abs(x) - 0.55, np.abs(y) - 0.55) - 0.22


FIGURES = {
  "disc": _disc,
  "ring": _ring,
  "plus": _plus,
  "cross": _cross,
  "level": _level,
  "upright": _upright,
  "triangle": _triangle,
  "dots": _dots,
}
NUM_CLASSES = len(FIGURES)


def generate(
  split: Literal["train", "test"],
  n: int | None = None,
  *,
  size: int = 32,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Renders one split.

  The same arguments give the same images everywhere. All arithmetic is float64,
  so that last-bit differences between maths libraries do not change the uint8
  results.

  Args:
    split: "train" or "test"; each has its own random stream.
    n: number of images; None means 4096 for train and 1024 for test.
    size: side of the images in pixels.
    seed: random seed of the set.

  Returns:
    images, uint8[n, size, size, 3], and labels, int32[n]: the index into
    FIGURES. Classes are as balanced as n allows, in random order.

  Raises:
    ValueError: `split` is neither "train" nor "test".
  """
  numbers = {"train": 4096, "test": 1024}
  if split not in numbers:
    raise ValueError(f"split is {split!r}; it must be 'train' or 'test'.")
  n = numbers[split] if n is None else n
  rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(split.encode())]))
  labels = (rng.permutation(n) % NUM_CLASSES).astype(np.int32)
  images = np.empty((n, size, size, 3), np.uint8)
  for start in range(0, n, _CHUNK):
    chunk = slice(start, start + _CHUNK)
    images[chunk] = _render(rng, labels[chunk], size)
  return images, labels


_SPLIT = re.compile(r"(train|test)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
  """Renders a split or a TFDS-style slice: "train[:10%]", "test[9:-5]".

  Raises:
    ValueError: there is no such split, or the slice is empty.
  """
  match = _SPLIT.fullmatch(split)
  if match is None:
    raise ValueError(
      f"there is no split {split!r}; there are 'train', 'test', and slices such"
      " as 'train[:10%]'."
    )
  images, labels = generate(match[1])

  def bound(text: str | None) -> int | None:
    if text is None or text[-1] != "%":
      return text and int(text)
    return round(len(images) * int(text[:-1]) / 100)

  part = slice(bound(match[2]), bound(match[3]))
  if not len(labels[part]):
    raise ValueError(f"{split!r} has none of the {len(labels)} images.")
  return images[part], labels[part]


def _render(rng, labels, size):
  """Renders labels int32[b] as images uint8[b, size, size, 3]."""
  b = len(labels)
  axis = (np.arange(size) + 0.5) / size
  y, x = np.meshgrid(axis, axis, indexing="ij")

  # Figures are lighter or darker than the ground.
  ground = _uniform(rng, b, GROUND)
  polarity = np.where(rng.random((b, 1, 1)) < 0.5, -1, 1)
  figure = ground + polarity * _uniform(rng, b, CONTRAST)
  figure = figure + TEXTURE[1] * _texture(rng, b, axis)

  light = ground + TEXTURE[0] * _texture(rng, b, axis)
  for _ in range(CLUTTER):
    centre = rng.random((2, b, 1, 1))
    u, v = _around(centre, _uniform(rng, b, (-np.pi, np.pi)), x, y)
    length, width = CLUTTER_SIZE
    bar = np.hypot(np.maximum(np.abs(u) - length, 0), v) - width
    sign = np.where(rng.random((b, 1, 1)) < 0.5, -1, 1)
    light = light + CLUTTER_CONTRAST * sign * _cover(bar * size)

  cover = 0.0
  corner = rng.random((2, b, 1, 1))
  for lattice in ((0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)):
    offset = JITTER * (2 * rng.random((2, b, 1, 1)) - 1)
    centre = corner + np.reshape(lattice, (2, 1, 1, 1)) + offset
    angle = _uniform(rng, b, (-ROTATION, ROTATION))
    radius = _uniform(rng, b, RADIUS)
    u, v = _around(centre, angle, x, y)
    distance = np.empty((b, size, size))
    for label, signed_distance in enumerate(FIGURES.values()):
      own = labels == label
      scale = radius[own]
      distance[own] = scale * signed_distance(u[own] / scale, v[own] / scale)
    cover = np.maximum(cover, _cover(distance * size))
  light = light + cover * (figure - light)

  # Ground and figures have complementary hues, which add no luminance.
  hue = 2 * rng.random((b, 3)) - 1
  hue -= hue @ _LUMA[:, None]
  hue /= np.linalg.norm(hue, axis=1, keepdims=True)
  strength = _uniform(rng, b, COLOUR) * (1 - 2 * cover)
  image = light[..., None] + strength[..., None] * hue[:, None, None]
  image += NOISE * rng.standard_normal(image.shape)
  return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _uniform(rng, b, bounds):
  return bounds[0] + (bounds[1] - bounds[0]) * rng.random((b, 1, 1))


def _around(centre, angle, x, y):
  """Rotated coordinates around a centre, on a plane with period 1."""
  x, y = (x - centre[0] + 0.5) % 1 - 0.5, (y - centre[1] + 0.5) % 1 - 0.5
  cos, sin = np.cos(angle), np.sin(angle)
  return cos * x + sin * y, cos * y - sin * x


def _texture(rng, b, axis):
  """Smooth noise in about [-1, 1]: random values on a grid, interpolated.

  Its statistics are the same in every image. It distinguishes images pixel by
  pixel, but carries no information for a network that pools over the image.
  """
  grid = 2 * rng.random((b, GRAIN + 1, GRAIN + 1)) - 1
  tent = 1 - np.abs(axis[:, None] * GRAIN - np.arange(GRAIN + 1))
  tent = np.clip(tent, 0, None)  # [size, GRAIN + 1]
  return tent @ grid @ tent.T


def _cover(distance):
  """Fraction of a pixel inside the shape, given signed distance in pixels."""
  return np.clip(0.5 - distance, 0, 1)
