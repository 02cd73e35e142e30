"""The view of evaluation."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from sslx.config import require
from sslx.data.crops import Cut
from sslx.data.views.base import require_interpolation


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
    require_interpolation(self)

  def box(self, height: int, width: int) -> np.ndarray:
    """The box in an image, float[4]: (top, left, height, width)."""
    side = min(height, width) * self.size / self.resize
    return np.array([(height - side) / 2, (width - side) / 2, side, side])

  def cut(self, height: int, width: int) -> Cut:
    """What to cut out of an image: resize first, then crop."""
    box = tuple(self.box(height, width))
    return Cut(box, False, self.interpolation == "bicubic", False)


@dataclasses.dataclass(frozen=True)
class Whole(Centre):
  """The whole image, stretched to the square that the encoder receives."""

  def box(self, height: int, width: int) -> np.ndarray:
    """See `Centre`."""
    return np.array([0, 0, height, width], float)
