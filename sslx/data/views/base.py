"""What a kind of view is: where it is cut out of an image, and its colours.

A view is cut on the host while the image is decoded, or on the device if the
images are small. A subclass of `View` says once where the boxes are; both cut
what it says.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from sslx.config import require
from sslx.data import augment, operations
from sslx.data.crops import Cut

Array = jax.Array

# Maps the `kind` of a view to its class. Modules in `runtime.custom_imports`
# add theirs.
KINDS: dict[str, type[View]] = {}

INTERPOLATIONS = ("bilinear", "bicubic")
MOST_VIEWS = 1000  # of one kind; more is a typing error


@dataclasses.dataclass(frozen=True)
class View:
  """One kind of view of an image. A subclass is a frozen dataclass in `KINDS`.

  Its fields are the keys of an element of `config.data.views`. `boxes` must be
  defined; the rest has defaults. A value out of its range raises a ValueError.

  A view with a `link` is the earlier view once more: it has the same boxes,
  flips and random numbers of the colours. What may differ is its size, its
  filter, its normalisation, and which colour operations it has.

  Attributes:
    num_uniforms: random numbers per image that `boxes` takes.
    bounded: see `crops.Cut`.
    free: keys in which a linked view may differ from the view that it is linked
      to. The boxes must not depend on them.
    size: height and width of a picture in pixels.
    count: views of this kind per image.
    interpolation: filter of the resize, antialiased.
    link: index in `config.data.views` of the view to which this one is linked;
      None draws its own random numbers. Of several views of a kind, the first
      is linked to the first, the second to the second.
    mean: mean per channel of images in [0, 1], for normalisation; None is
      `config.data.mean`. A mean of 0 and an std of 1 leave pixels in [0, 1].
    std: standard deviation per channel; None is `config.data.std`.
  """

  num_uniforms: ClassVar[int] = 0
  bounded: ClassVar[bool] = True
  free: ClassVar[tuple[str, ...]] = ("interpolation", "link", "mean", "std")

  size: int
  _: dataclasses.KW_ONLY
  count: int = 1
  interpolation: Literal["bilinear", "bicubic"] = "bilinear"
  link: int | None = None
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None

  def __post_init__(self):
    for name in ("size", "count"):
      require(self, name, getattr(self, name) >= 1, "1 or more")
    require(self, "count", self.count <= MOST_VIEWS, f"at most {MOST_VIEWS}")
    require_interpolation(self)
    both = (self.mean is None) == (self.std is None)
    require(self, "std", both, "given if `mean` is, and None if it is None")
    require(self, "std", min(self.std or (1,)) > 0, "positive")

  def boxes(
    self, uniforms: Any, height: Any, width: Any, xp: Any = np
  ) -> tuple[Any, Any]:
    """Returns where the pictures of the view are in each image.

    Args:
      uniforms: float[b, num_uniforms] in [0, 1).
      height: heights of the images: a number, or [b].
      width: widths of the images: a number, or [b].
      xp: numpy on the host, where the sizes of images differ; jax.numpy on the
        device.

    Returns:
      [b, n, 4], (top, left, height, width) of each of the n pictures of a view,
      inside the image, and integers if the view is `bounded`; and bool[b],
      which views are mirrored left to right.
    """
    raise NotImplementedError

  def shape(self, channels: int = 3) -> tuple[int, ...]:
    """Shape of one view of one image: [h, w, c], or [n, h, w, c]."""
    return (self.size, self.size, channels)

  def colour(self, cut: Array, keys: Array) -> Array:
    """Changes the colours of a view, on the device.

    Args:
      cut: u8 or float [b, *shape], as cut on the host or here.
      keys: one per image.

    Returns:
      f32[b, *shape] in [0, 1].
    """
    del keys
    return operations.to_float(cut)

  def told(self, keys: Array) -> list[list[str]]:
    """Says in words, for each image, what `colour` does with these keys."""
    return [[] for _ in range(len(keys))]

  @property
  def needs_rgb(self) -> bool:
    """Whether `colour` takes red, green and blue, and no other channels."""
    return False

  @property
  def kind(self) -> str:
    """The name of the class in `KINDS`."""
    names = (name for name, cls in KINDS.items() if cls is type(self))
    return next(names, type(self).__name__)

  def uniforms(self, keys: Array) -> Array:
    """Draws the random numbers of `boxes` on the device."""
    return augment.uniforms(keys, augment.BOX, self.num_uniforms)

  def cuts(
    self, uniforms: np.ndarray, height: np.ndarray, width: np.ndarray
  ) -> list[list[Cut]]:
    """Returns what to cut out of each image on the host; see `boxes`."""
    boxes, flips = self.boxes(uniforms, height, width, np)
    cubic = self.interpolation == "bicubic"
    return [
      [Cut(tuple(box), bool(flip), cubic, self.bounded) for box in mine]
      for mine, flip in zip(boxes.tolist(), flips, strict=True)
    ]

  def cut(self, images: Array, keys: Array) -> Array:
    """Cuts the view of each image on the device: f32[b, *shape]."""
    boxes, flips = self.boxes(self.uniforms(keys), *images.shape[1:3], jnp)
    pictures = [
      operations.crop_resize(
        images, boxes[:, n], flips, self.size, self.interpolation, self.bounded
      )
      for n in range(boxes.shape[1])
    ]
    shape = self.shape(images.shape[-1])
    return jnp.stack(pictures, axis=1).reshape(len(images), *shape)


def require_interpolation(view: Any) -> None:
  """Raises ValueError if there is no such filter."""
  known = view.interpolation in INTERPOLATIONS
  require(view, "interpolation", known, " or ".join(map(repr, INTERPOLATIONS)))


def require_probability(view: Any, name: str) -> None:
  """Raises ValueError unless the field is a probability."""
  require(view, name, 0 <= getattr(view, name) <= 1, "a probability, 0 to 1")
