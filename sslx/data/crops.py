"""From an encoded image to its views: decode once, then cut every view out.

The host's part of the augmentation: all that makes large images small. JPEGs go
through our own decoder (`_native.c`), which decodes only what some view sees
and works without the GIL; where it was not built, through simplejpeg and
OpenCV. Greyscale, CMYK, PNG, WebP and whatever else, and JPEGs with damage that
can be lived with, go through Pillow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from sslx.data import views as views_lib
from sslx.data.views import Centre, Patches, View

try:
  from sslx.data import _native
except ImportError:  # No compiler or no libjpeg-turbo when it was installed.
  _native = None

# Threads are ours: one image each. OpenCV's own would fight with them.
cv2.setNumThreads(0)
# A bad image is reported by us, and once.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# The bound is ours: what Pillow calls a "decompression bomb" may be a photo.
Image.MAX_IMAGE_PIXELS = None
# Larger images are refused by their header. A small file may claim more pixels
# than there is memory: 2^28 take 805 MB as RGB, in each thread.
MAX_PIXELS = 2**28


class BadImage(ValueError):
  """An image that cannot be decoded."""


@dataclasses.dataclass(frozen=True)
class Cut:
  """Where one output comes from: a box of the image, resized.

  Attributes:
    box: (top, left, height, width) in pixels of the image.
    flip: whether to mirror it left to right.
    cubic: bicubic filter instead of a bilinear one; both antialiased.
    bounded: the filter sees the pixels of the box alone (first a crop, then a
      resize; the box is of whole pixels), not those around it as well (first a
      resize of the image, then a crop).
  """

  box: tuple[float, float, float, float]
  flip: bool = False
  cubic: bool = False
  bounded: bool = True


def size(data: bytes | np.ndarray) -> tuple[int, int]:
  """Height and width, from the header alone.

  Args:
    data: an encoded image, or pixels uint8[h, w, 3].

  Raises:
    BadImage: it is not an image, or has more than `MAX_PIXELS`.
  """
  if isinstance(data, np.ndarray):
    return data.shape[:2]
  height, width = _header(data)
  if height * width > MAX_PIXELS:
    raise BadImage(
      f"it has {height:,} x {width:,} pixels, more than {MAX_PIXELS:,}"
    )
  return height, width


def _header(data: bytes) -> tuple[int, int]:
  """Height and width that an encoded image claims."""
  if data[:2] == b"\xff\xd8":
    # It refuses some samplings of the chroma, which Pillow knows.
    with contextlib.suppress(Exception):
      return simplejpeg.decode_jpeg_header(data, strict=False)[:2]
  if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
    width, height = struct.unpack(">II", data[16:24])
    return height, width
  try:
    with Image.open(io.BytesIO(data)) as image:
      return image.height, image.width
  except Exception as error:  # Decoders raise whatever they like.
    raise BadImage(_what(data, error)) from error


def decode(data: bytes) -> np.ndarray:
  """The whole image, uint8[h, w, 3] RGB. EXIF orientation is not applied.

  Raises:
    BadImage: it is not an image, is damaged beyond what Pillow forgives, or has
      more than `MAX_PIXELS`.
  """
  size(data)
  if data[:2] == b"\xff\xd8":
    with contextlib.suppress(Exception):  # Damaged: Pillow knows more.
      return simplejpeg.decode_jpeg(data, "RGB", strict=True)
  if data[:4] == b"\x89PNG":  # OpenCV takes a third of Pillow's time.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    with contextlib.suppress(cv2.error):  # More pixels than it takes.
      image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
      if image is not None:
        return image
  try:
    with Image.open(io.BytesIO(data)) as image:
      if image.mode.startswith("I") or image.mode == "F":
        # 16 bits, which Pillow would clip to 8 instead of scaling them.
        grey = np.asarray(image, np.float64)
        grey = np.clip(grey / 257 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
      return np.asarray(image.convert("RGB"))
  except Exception as error:
    raise BadImage(_what(data, error)) from error


def cut(
  data: bytes | np.ndarray, cuts: list[Cut], outs: list[np.ndarray]
) -> None:
  """Decodes an image once and writes all cuts of it.

  Args:
    data: an encoded image, or pixels uint8[h, w, 3].
    cuts: where they come from.
    outs: uint8[height, width, 3] each, contiguous, to write to.

  Raises:
    BadImage: it cannot be decoded.
  """
  if _native and isinstance(data, bytes) and data[:2] == b"\xff\xd8":
    size(data)
    boxes = np.array([c.box for c in cuts], np.float64)
    options = [(c.flip, c.cubic, c.bounded) for c in cuts]
    try:
      options = np.array(options, np.int32)
      return _native.crops(data, boxes, options, tuple(outs))
    except ValueError:
      pass  # Of a kind, or with damage, that Pillow may know.
  image = data if isinstance(data, np.ndarray) else decode(data)
  for c, out in zip(cuts, outs, strict=True):
    _resize(image, c, out)


def _resize(image: np.ndarray, cut: Cut, out: np.ndarray) -> None:
  """Writes one cut of a decoded image, by OpenCV."""
  height, width = out.shape[:2]
  top, left, tall, wide = cut.box
  if cut.bounded:
    top, left, tall, wide = map(int, cut.box)
    image = image[top : top + tall, left : left + wide]
    # AREA is antialiased if neither axis grows; where one does, it is nearest.
    less = min(width, wide), min(height, tall)
    if less != (wide, tall):
      image = cv2.resize(image, less, interpolation=cv2.INTER_AREA)
    if less == (width, height):
      out[:] = image
    else:
      kind = cv2.INTER_CUBIC if cut.cubic else cv2.INTER_LINEAR
      cv2.resize(image, (width, height), dst=out, interpolation=kind)
  else:
    # Pillow takes boxes that do not fall on pixels.
    kind = Image.Resampling.BICUBIC if cut.cubic else Image.Resampling.BILINEAR
    box = (left, top, left + wide, top + tall)
    out[:] = Image.fromarray(image).resize((width, height), kind, box)
  if cut.flip:
    out[:] = out[:, ::-1].copy()


def uniforms_per_image(views: tuple[View | Patches, ...]) -> int:
  """How many uniform numbers `random_cuts` takes for each image."""
  return sum(
    views_lib.PATCH_UNIFORMS
    if isinstance(view, Patches)
    else views_lib.BOX_UNIFORMS + 1
    for view in views_lib.each(views)
  )


def random_cuts(
  views: tuple[View | Patches, ...],
  uniforms: np.ndarray,
  height: np.ndarray,
  width: np.ndarray,
) -> list[list[list[Cut]]]:
  """Draws the boxes and flips of all views of each image.

  Args:
    views: kinds of views.
    uniforms: float64[b, uniforms_per_image(views)] in [0, 1).
    height: int[b], of the images.
    width: int[b].

  Returns:
    For each image and each of its views, the cuts: one for a `View`, nine for
    `Patches`.
  """
  columns = []  # of each view, its cuts in every image
  for view in views_lib.each(views):
    cubic = view.interpolation == "bicubic"
    if isinstance(view, Patches):
      count = views_lib.PATCH_UNIFORMS
      corners = views_lib.random_patches(view, uniforms[:, :count])
      boxes = views_lib.patch_boxes(view, corners, height, width)
      columns.append(
        [[Cut(tuple(box), False, cubic, False) for box in b] for b in boxes]
      )
    else:
      count = views_lib.BOX_UNIFORMS + 1
      boxes = views_lib.random_boxes(
        view, uniforms[:, : count - 1], height, width
      )
      flips = uniforms[:, count - 1] < view.flip
      columns.append(
        [
          [Cut(tuple(box), bool(flip), cubic)]
          for box, flip in zip(boxes.tolist(), flips, strict=True)
        ]
      )
    uniforms = uniforms[:, count:]
  return [list(cuts) for cuts in zip(*columns, strict=True)]


def centre_cut(view: Centre, height: int, width: int) -> Cut:
  """The evaluation transform: resize the short side, take the centre."""
  box = views_lib.centre_box(view, height, width)
  return Cut(tuple(box), False, view.interpolation == "bicubic", False)


def _what(data: bytes, error: Exception) -> str:
  if not data:
    return "it is empty, or could not be read"
  first = str(error).splitlines()[0] if str(error) else type(error).__name__
  return f"{len(data)} bytes that do not decode: {first}"[:300]
