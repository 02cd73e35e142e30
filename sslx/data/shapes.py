"""The `shapes` data set: generated figures on clutter, nothing to download.

The class is the shape of the one large figure. All the rest is nuisance: its
colour, whether it is lighter or darker than the ground, its place, size,
rotation and texture, and the ground's colour, texture and clutter. Colour and
light are what an augmentation changes, and texture and clutter are drawn alike
in every image, so that the shape is the most that two views of an image share.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

# Difficulty. Lengths are fractions of the image's side, light is in [0, 1].
RADIUS = (0.25, 0.36)  # of the circle around the figure
MARGIN = 0.4  # how much of the radius stays inside the image
ROTATION = 0.8  # radians, to either side
CONTRAST = (0.3, 0.4)  # luminance of the figure against the ground
COLOUR = (0.2, 0.3)  # strength of the image's one hue
TEXTURE = (0.2, 0.05)  # amplitude of the noise on the ground, on the figure
GRAIN = 4  # cells of that noise along a side
CLUTTER = 4  # small bars under the figure
CLUTTER_SIZE = (0.06, 0.03)  # half their length, half their width
CLUTTER_CONTRAST = 0.2
NOISE = 0.02  # standard deviation of a pixel

_LUMA = np.array([0.299, 0.587, 0.114])
_CHUNK = 256  # images rendered at a time: what fits the cache of a core


# Signed distances (about; exact near the edge) to figures inside the unit
# circle, negative inside. Coordinates are f64[b, size, size], y points down.


def _disc(x, y):
  return np.hypot(x, y) - 0.85


def _ring(x, y):
  return np.abs(np.hypot(x, y) - 0.75) - 0.2


def _triangle(x, y):
  return np.maximum(y, np.abs(x) * np.sqrt(0.75) - y / 2) - 0.5


def _plus(x, y):
  x, y = np.abs(x), np.abs(y)
  return np.maximum(np.minimum(x, y) - 0.25, np.maximum(x, y) - 0.92)


def _crescent(x, y):
  return np.maximum(np.hypot(x, y) - 0.9, 0.75 - np.hypot(x - 0.5, y))


def _bars(x, y):
  x = np.abs(x)
  return np.maximum(np.minimum(x, np.abs(x - 0.6)) - 0.15, np.abs(y) - 0.65)


def _bowtie(x, y):
  x, y = np.abs(x), np.abs(y)
  return np.maximum((y - x) * np.sqrt(0.5) - 0.06, x - 0.66)


def _dots(x, y):
  return np.hypot(np.abs(x) - 0.5, np.abs(y) - 0.5) - 0.29


FIGURES = {
  "disc": _disc,
  "ring": _ring,
  "triangle": _triangle,
  "plus": _plus,
  "crescent": _crescent,
  "bars": _bars,
  "bowtie": _bowtie,
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

  The same arguments give the same images everywhere: all arithmetic is float64,
  so that differences of the last bit between maths libraries do not reach the
  rounding to uint8.

  Args:
    split: "train" or "test"; each draws from its own random stream.
    n: number of images; None means 4096 for train and 1024 for test.
    size: side of the images, in pixels.
    seed: another seed gives another set of the same kind.

  Returns:
    images, uint8[n, size, size, 3], and labels, int32[n]: the index into
    FIGURES. Classes are as equal in number as n allows, in random order.

  Raises:
    ValueError: another split.
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


def _render(rng, labels, size):
  """int32[b] -> uint8[b, size, size, 3]: ground, clutter, figure, noise."""
  b = len(labels)
  axis = (np.arange(size) + 0.5) / size
  y, x = np.meshgrid(axis, axis, indexing="ij")

  # The figure stands out from the ground in luminance, to either side.
  contrast = _uniform(rng, b, CONTRAST)
  low = 0.15 + (0.7 - contrast) * rng.random((b, 1, 1))
  lighter = rng.random((b, 1, 1)) < 0.5
  ground = np.where(lighter, low, low + contrast)
  figure = np.where(lighter, low + contrast, low)

  light = ground + TEXTURE[0] * _texture(rng, b, axis)
  for _ in range(CLUTTER):
    u, v = _place(rng, b, x, y, margin=0.0, rotation=np.pi)
    length, width = CLUTTER_SIZE
    bar = np.hypot(np.maximum(np.abs(u) - length, 0), v) - width
    sign = np.where(rng.random((b, 1, 1)) < 0.5, -1, 1)
    light = light + CLUTTER_CONTRAST * sign * _cover(bar * size)

  radius = _uniform(rng, b, RADIUS)
  u, v = _place(rng, b, x, y, MARGIN * radius, ROTATION)
  u, v = u / radius, v / radius
  distance = np.empty((b, size, size))
  for label, signed_distance in enumerate(FIGURES.values()):
    own = labels == label
    distance[own] = signed_distance(u[own], v[own])
  cover = _cover(distance * radius * size)
  figure = figure + TEXTURE[1] * _texture(rng, b, axis)
  light = light + cover * (figure - light)

  # Ground and figure in complementary hues, which adds no luminance.
  hue = 2 * rng.random((b, 3)) - 1
  hue -= hue @ _LUMA[:, None]
  hue /= np.linalg.norm(hue, axis=1, keepdims=True)
  strength = _uniform(rng, b, COLOUR) * (1 - 2 * cover)
  image = light[..., None] + strength[..., None] * hue[:, None, None]
  image += NOISE * rng.standard_normal(image.shape)
  return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _uniform(rng, b, bounds):
  return bounds[0] + (bounds[1] - bounds[0]) * rng.random((b, 1, 1))


def _place(rng, b, x, y, margin, rotation):
  """Coordinates around a random centre, `margin` away from the border."""
  centre_x = margin + (1 - 2 * margin) * rng.random((b, 1, 1))
  centre_y = margin + (1 - 2 * margin) * rng.random((b, 1, 1))
  angle = rotation * (2 * rng.random((b, 1, 1)) - 1)
  cos, sin = np.cos(angle), np.sin(angle)
  x, y = x - centre_x, y - centre_y
  return cos * x + sin * y, cos * y - sin * x


def _texture(rng, b, axis):
  """Smooth noise in about [-1, 1]: random values on a grid, interpolated.

  Its statistics are the same in every image, so that it tells images apart
  pixel by pixel but is of no use to a network that pools over the image.
  """
  grid = 2 * rng.random((b, GRAIN + 1, GRAIN + 1)) - 1
  tent = 1 - np.abs(axis[:, None] * GRAIN - np.arange(GRAIN + 1))
  tent = np.clip(tent, 0, None)  # [size, GRAIN + 1]
  return tent @ grid @ tent.T


def _cover(distance):
  """Signed distance in pixels -> what part of the pixel is inside."""
  return np.clip(0.5 - distance, 0, 1)
