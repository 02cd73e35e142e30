"""Decodes an image once and cuts all its views.

This is the part of the augmentation that runs on the host: cropping and
resizing large images. JPEGs are decoded by our own decoder (`_native.c`), which
decodes only the regions that some view needs, and releases the GIL. Images that
it does not support, and all images if it was not built, are decoded whole by
`pictures` and resized by Pillow.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from sslx.data import pictures
from sslx.data.pictures import BadImage as BadImage
from sslx.data.pictures import Picture, read, turned
from sslx.data.pictures import decode as decode
from sslx.data.pictures import readable as readable

try:
  from sslx.data import _native
except ImportError:  # Installed without a compiler or without libjpeg-turbo.
  _native = None


@dataclasses.dataclass(frozen=True)
class Cut:
  """The source of one output: a box of the image, resized.

  Attributes:
    box: (top, left, height, width) in pixels of the image.
    flip: whether to mirror the output left to right.
    cubic: bicubic filter instead of a bilinear one; both are antialiased.
    bounded: if True, crop then resize: the filter sees only the pixels of the
      box, whose bounds are integers. If False, resize then crop: the filter
      also sees the pixels around the box.
  """

  box: tuple[float, float, float, float]
  flip: bool = False
  cubic: bool = False
  bounded: bool = True


def decoder() -> str:
  """Name of the JPEG decoder in use; decoders differ slightly in pixels."""
  return "native" if _native else "simplejpeg"


def cut(
  image: Picture | bytes | np.ndarray, cuts: list[Cut], outs: list[np.ndarray]
) -> None:
  """Decodes an image once and writes all its cuts.

  Args:
    image: a result of `read`, or an argument for it.
    cuts: one per output.
    outs: contiguous uint8[height, width, c] arrays to write to.

  Raises:
    BadImage: the image cannot be decoded.
  """
  picture = image if isinstance(image, Picture) else read(image)
  if picture.orientation == 1:
    return _cut(picture, cuts, outs)
  # Cut from the pixels as stored, then turn the small results upright.
  swap = pictures.TURNS[picture.orientation][0]
  shapes = [(w, h, 3) if swap else (h, w, 3) for h, w, _ in map(np.shape, outs)]
  stored = [np.empty(shape, np.uint8) for shape in shapes]
  _cut(picture, [_as_stored(c, picture) for c in cuts], stored)
  for c, found, out in zip(cuts, stored, outs, strict=True):
    upright = turned(found, picture.orientation)
    out[:] = upright[:, ::-1] if c.flip else upright


def _cut(picture: Picture, cuts: list[Cut], outs: list[np.ndarray]) -> None:
  data = picture.data
  if _native and isinstance(data, bytes) and data[:2] == pictures.JPEG:
    boxes = np.array([c.box for c in cuts], np.float64)
    options = [(c.flip, c.cubic, c.bounded) for c in cuts]
    try:
      options = np.array(options, np.int32)
      return _native.crops(data, boxes, options, tuple(outs))
    except ValueError:
      pass  # Unsupported or damaged; `pictures` may still decode it.
  pixels = pictures.pixels(picture)
  # Pillow resizes RGB at once, and any other number of channels one by one.
  bands = [slice(None)] if pixels.shape[2] == 3 else range(pixels.shape[2])
  images = [
    Image.fromarray(np.ascontiguousarray(pixels[..., band])) for band in bands
  ]
  for c, out in zip(cuts, outs, strict=True):
    for band, image in zip(bands, images, strict=True):
      out[..., band] = _resized(image, c, *out.shape[:2])


def _resized(image: Image.Image, cut: Cut, height: int, width: int) -> Any:
  top, left, tall, wide = cut.box
  kind = Image.Resampling.BICUBIC if cut.cubic else Image.Resampling.BILINEAR
  box = (left, top, left + wide, top + tall)
  if cut.bounded:
    image, box = image.crop(tuple(map(int, box))), None
  resized = np.asarray(image.resize((width, height), kind, box))
  return resized[:, ::-1] if cut.flip else resized


def _as_stored(cut: Cut, picture: Picture) -> Cut:
  """Maps a cut of the upright picture to the pixels as they are stored."""
  swap, rows, columns = pictures.TURNS[picture.orientation]
  top, left, tall, wide = cut.box
  # Rounding must not move the box outside the image.
  top = max(0, picture.size[0] - top - tall) if rows else top
  left = max(0, picture.size[1] - left - wide) if columns else left
  box = (left, top, wide, tall) if swap else (top, left, tall, wide)
  return dataclasses.replace(cut, box=box, flip=False)
