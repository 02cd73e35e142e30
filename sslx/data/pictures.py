"""From the bytes of an image to its size and its pixels.

`read` says the size, and `pixels` holds the pixels to it; what either refuses
is a `BadImage`. JPEG goes through simplejpeg; all else, and damage that can be
lived with, through Pillow. README.md says what becomes of each kind of pixel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from sslx.data import formats

# The bound is ours: what Pillow calls a "decompression bomb" may be a photo.
Image.MAX_IMAGE_PIXELS = None
# Larger images are refused by their header. A small file may claim more pixels
# than there is memory: 2^28 take 805 MB as RGB, in each thread.
MAX_PIXELS = 2**28
JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # EXIF's tag
# Of each EXIF orientation: whether rows become columns, and whether the rows
# and the columns are then reversed.
TURNS = {
  1: (False, False, False), 2: (False, False, True), 3: (False, True, True),
  4: (False, True, False), 5: (True, False, False), 6: (True, False, True),
  7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
_BACK = {6: 8, 8: 6}  # what undoes an orientation, if not the same again


class BadImage(ValueError):
  """An image that cannot be decoded."""


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """An image whose header has been read.

  Attributes:
    data: an encoded image, or pixels uint8[h, w, c].
    size: height and width of the image, when it is turned upright.
    orientation: EXIF's, by which the decoded pixels are turned.
  """

  data: bytes | np.ndarray
  size: tuple[int, int]
  orientation: int = 1


def read(data: bytes | np.ndarray, exif: bool = True) -> Picture:
  """Reads the header of an image; what it refuses, nothing here decodes.

  Args:
    data: an encoded image, or pixels uint8[h, w, c].
    exif: whether EXIF's orientation turns the image.

  Raises:
    BadImage: it is not an image, or has more than `MAX_PIXELS`.
  """
  if isinstance(data, np.ndarray):
    return Picture(data, data.shape[:2])
  picture = _header(data, exif)
  height, width = picture.size
  if height * width > MAX_PIXELS:
    raise BadImage(
      f"it has {height:,} x {width:,} pixels, more than {MAX_PIXELS:,}"
    )
  return picture


def readable(data: bytes | np.ndarray, exif: bool = True) -> Picture | None:
  """`read`, or None for what it refuses; a second `read` says why."""
  try:
    return read(data, exif)
  except BadImage:
    return None


def _header(data: bytes, exif: bool) -> Picture:
  quick = None
  if data[:2] == JPEG:
    # It refuses some samplings of the chroma, which Pillow knows.
    with contextlib.suppress(Exception):
      size = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
      quick = Picture(data, size)
  elif data[:8] == _PNG and data[12:16] == b"IHDR" and len(data) > 24:
    width, height = struct.unpack(">II", data[16:24])
    quick = Picture(data, (height, width))
  if quick and not (exif and _may_be_turned(data)):
    return quick
  try:
    with Image.open(io.BytesIO(data), formats=formats.names()) as image:
      return _by_pillow(data, image, exif)
  except Exception as error:  # Decoders raise whatever they like.
    if quick:  # What Pillow refuses may decode all the same.
      return quick
    raise BadImage(_what(data, error)) from error


def _by_pillow(data: bytes, image: Image.Image, exif: bool) -> Picture:
  size = image.height, image.width
  try:
    orientation = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # Of damaged EXIF, any; it then says nothing.
    orientation = 1
  if orientation not in TURNS:
    orientation = 1
  if image.format == "TIFF":  # Which Pillow turns as it decodes.
    orientation = 1 if exif else _BACK.get(orientation, orientation)
  elif not exif:
    orientation = 1
  return Picture(
    data, size[::-1] if TURNS[orientation][0] else size, orientation
  )


def _may_be_turned(data: bytes) -> bool:
  """Whether a JPEG or PNG must be opened by Pillow to know; that takes long."""
  if data[:2] != JPEG:
    with_text = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
    return any(name in with_text for name, _ in _chunks(data))
  try:
    return any(map(_turns, _app1(data)))
  except (IndexError, struct.error):  # Damaged, or filled: Pillow knows more.
    return True


def _app1(jpeg: bytes) -> Iterator[bytes]:
  """The segments of the header that hold EXIF or XMP."""
  at = 2
  while (marker := jpeg[at + 1]) != 0xDA:  # The image itself.
    if jpeg[at] != 0xFF or marker == 0xFF:
      raise IndexError(at)
    end = at + 2 + (jpeg[at + 2] << 8 | jpeg[at + 3])
    if marker == 0xE1:
      yield jpeg[at + 4 : end]
    at = end


def _turns(segment: bytes) -> bool:
  """Whether it holds an orientation other than upright."""
  if not segment.startswith(b"Exif\0\0"):
    return b"tiff:Orientation" in segment
  tiff = segment[6:]
  order = "<" if tiff[:2] == b"II" else ">"
  (at,) = struct.unpack_from(order + "I", tiff, 4)
  (count,) = struct.unpack_from(order + "H", tiff, at)
  entries = tiff[at + 2 : at + 2 + 12 * count]
  tags = {
    tag: value for tag, value in struct.iter_unpack(order + "H6xH2x", entries)
  }
  return tags.get(_ORIENTATION, 1) != 1


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
  """Name of each chunk, and all its bytes; up to where the file ends."""
  at = 8
  while at + 12 <= len(png):
    end = at + 12 + int.from_bytes(png[at : at + 4], "big")
    yield png[at + 4 : at + 8], png[at:end]
    at = end


def decode(data: bytes, exif: bool = True) -> np.ndarray:
  """The whole image, uint8[h, w, 3] RGB.

  Args:
    data: an encoded image.
    exif: whether EXIF's orientation turns it.

  Raises:
    BadImage: it is not an image, is damaged beyond what Pillow forgives, or has
      more than `MAX_PIXELS`.
  """
  picture = read(data, exif)
  return np.ascontiguousarray(turned(pixels(picture), picture.orientation))


def pixels(picture: Picture) -> np.ndarray:
  """Decodes it whole, and does not turn it: uint8[h, w, 3]."""
  data = picture.data
  if isinstance(data, np.ndarray):
    return data
  found = _decoded(data)
  height, width = turned(found, picture.orientation).shape[:2]
  if (height, width) != picture.size:
    claimed = "{} x {}".format(*picture.size)
    raise BadImage(
      f"its header says {claimed} pixels, and it has {height} x {width}"
    )
  return found


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
  """The image as EXIF's orientation wants it; a view."""
  swap, rows, columns = TURNS[orientation]
  image = image.swapaxes(0, 1) if swap else image
  image = image[::-1] if rows else image
  return image[:, ::-1] if columns else image


def _decoded(data: bytes) -> np.ndarray:
  if data[:2] == JPEG:
    with contextlib.suppress(Exception):  # Damaged: Pillow knows more.
      return simplejpeg.decode_jpeg(data, "RGB", strict=True)
  known = _critical(data) if data[:8] == _PNG else data
  try:
    with Image.open(io.BytesIO(known), formats=formats.names()) as image:
      if image.mode[0] in "IF":
        grey = np.rint(255 * _grey(image)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
      return np.asarray(image.convert("RGB"))
  except Exception as error:
    raise BadImage(_what(data, error)) from error


def _critical(png: bytes) -> bytes:
  """The chunks that hold pixels; of others, damage is no matter."""
  names = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
  return _PNG + b"".join(chunk for name, chunk in _chunks(png) if name in names)


def _grey(image: Image.Image) -> np.ndarray:
  """Grey of more than 8 bits, as float[h, w] in [0, 1].

  Pillow would clip it. What value is white the kind of the file says, and never
  the one image: two images of a set stay comparable.
  """
  tags = getattr(image, "tag_v2", {})
  values = np.asarray(image, np.float64)
  if image.mode == "F":
    if not (values.min() >= 0 and values.max() <= 1):  # So put for NaNs.
      raise ValueError(
        f"floats from {values.min():g} to {values.max():g}: which is white is"
        " not known; save 0 to 1, or integers of 16 bits"
      )
  elif image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
    (bits,) = tags.get(258, (16,))
    values = values / (2**bits - 1)
  else:
    raise ValueError(
      "integers of 32 bits, or with a sign: which is white is not known; save"
      " integers of 16 bits without a sign"
    )
  return 1 - values if tags.get(262) == 0 else values  # Pillow leaves it.


def _what(data: bytes, error: Exception) -> str:
  if not data:
    return "it is empty, or could not be read"
  text = re.sub(r" ?<_io.BytesIO[^>]*>", "", str(error))
  first = text.splitlines()[0] if text else type(error).__name__
  return f"{len(data)} bytes that do not decode: {first}"[:300]
