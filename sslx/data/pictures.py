"""Reads the size and the pixels of an encoded image.

`read` returns the size from the header, and `pixels` checks the decoded pixels
against it. Both raise `BadImage`. simplejpeg decodes JPEGs. Pillow decodes all
other formats, and damaged JPEGs if the damage is tolerable. README.md says how
each kind of pixel is converted.
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

# MAX_PIXELS replaces Pillow's limit: a photo may exceed that limit.
Image.MAX_IMAGE_PIXELS = None
# Larger images are rejected by their header. A small file may claim more pixels
# than fit in memory: 2^28 pixels take 805 MB as RGB, in each thread.
MAX_PIXELS = 2**28
JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # the EXIF tag
# For each EXIF orientation: whether to swap rows and columns, and whether to
# reverse the rows and the columns afterwards.
TURNS = {
  1: (False, False, False), 2: (False, False, True), 3: (False, True, True),
  4: (False, True, False), 5: (True, False, False), 6: (True, False, True),
  7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
_BACK = {6: 8, 8: 6}  # inverses of orientations that are not their own inverse


class BadImage(ValueError):
  """An image that cannot be decoded."""


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """An image whose header has been read.

  Attributes:
    data: an encoded image, or pixels uint8[h, w, c].
    size: height and width of the upright image.
    orientation: EXIF orientation to apply to the decoded pixels.
  """

  data: bytes | np.ndarray
  size: tuple[int, int]
  orientation: int = 1


def read(data: bytes | np.ndarray, exif: bool = True) -> Picture:
  """Reads the header of an image; no function here decodes what it rejects.

  Args:
    data: an encoded image, or pixels uint8[h, w, c].
    exif: whether to apply the EXIF orientation.

  Raises:
    BadImage: it is not an image, or has more than `MAX_PIXELS` pixels.
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
  """`read`, but returns None for a bad image; call `read` for the reason."""
  try:
    return read(data, exif)
  except BadImage:
    return None


def _header(data: bytes, exif: bool) -> Picture:
  quick = None
  if data[:2] == JPEG:
    # It rejects some chroma subsamplings that Pillow supports.
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
  except Exception as error:  # Decoders raise many kinds of errors.
    if quick:  # The image may decode although Pillow rejects it.
      return quick
    raise BadImage(_what(data, error)) from error


def _by_pillow(data: bytes, image: Image.Image, exif: bool) -> Picture:
  size = image.height, image.width
  try:
    orientation = image.getexif().get(_ORIENTATION, 1)
  except Exception:  # Damaged EXIF, which raises many kinds, is ignored.
    orientation = 1
  if orientation not in TURNS:
    orientation = 1
  if image.format == "TIFF":  # Pillow itself turns TIFF when it decodes.
    orientation = 1 if exif else _BACK.get(orientation, orientation)
  elif not exif:
    orientation = 1
  return Picture(
    data, size[::-1] if TURNS[orientation][0] else size, orientation
  )


def _may_be_turned(data: bytes) -> bool:
  """Whether a JPEG or PNG may have an orientation other than upright.

  Only such images are opened by Pillow, which is slow.
  """
  if data[:2] != JPEG:
    with_text = {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
    return any(name in with_text for name, _ in _chunks(data))
  try:
    return any(map(_turns, _app1(data)))
  except (IndexError, struct.error):  # Damaged or padded: left to Pillow.
    return True


def _app1(jpeg: bytes) -> Iterator[bytes]:
  """Yields the header segments that hold EXIF or XMP."""
  at = 2
  while (marker := jpeg[at + 1]) != 0xDA:  # Start of the image data.
    if jpeg[at] != 0xFF or marker == 0xFF:
      raise IndexError(at)
    end = at + 2 + (jpeg[at + 2] << 8 | jpeg[at + 3])
    if marker == 0xE1:
      yield jpeg[at + 4 : end]
    at = end


def _turns(segment: bytes) -> bool:
  """Whether a segment may hold an orientation other than upright."""
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
  """Yields the name and all bytes of each chunk, up to the end of the file."""
  at = 8
  while at + 12 <= len(png):
    end = at + 12 + int.from_bytes(png[at : at + 4], "big")
    yield png[at + 4 : at + 8], png[at:end]
    at = end


def decode(data: bytes, exif: bool = True) -> np.ndarray:
  """Decodes a whole image to uint8[h, w, 3] RGB.

  Args:
    data: an encoded image.
    exif: whether to apply the EXIF orientation.

  Raises:
    BadImage: it is not an image, is damaged beyond what Pillow tolerates, or
      has more than `MAX_PIXELS` pixels.
  """
  picture = read(data, exif)
  return np.ascontiguousarray(turned(pixels(picture), picture.orientation))


def pixels(picture: Picture) -> np.ndarray:
  """Decodes a whole image to uint8[h, w, 3], without turning it upright."""
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
  """Applies an EXIF orientation; returns a NumPy view."""
  swap, rows, columns = TURNS[orientation]
  image = image.swapaxes(0, 1) if swap else image
  image = image[::-1] if rows else image
  return image[:, ::-1] if columns else image


def _decoded(data: bytes) -> np.ndarray:
  if data[:2] == JPEG:
    with contextlib.suppress(Exception):  # Damaged: left to Pillow.
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
  """Keeps only the chunks that hold pixels, so others may be damaged."""
  names = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
  return _PNG + b"".join(chunk for name, chunk in _chunks(png) if name in names)


def _grey(image: Image.Image) -> np.ndarray:
  """Converts grey of more than 8 bits to float[h, w] in [0, 1].

  Pillow would clip the values. The value of white depends on the kind of file,
  not on the image, so that the images of a set remain comparable.
  """
  tags = getattr(image, "tag_v2", {})
  values = np.asarray(image, np.float64)
  if image.mode == "F":
    if not (values.min() >= 0 and values.max() <= 1):  # Also rejects NaNs.
      raise ValueError(
        f"floats from {values.min():g} to {values.max():g}: it is not known"
        " which number is white; save 0 to 1, or integers of 16 bits"
      )
  elif image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
    (bits,) = tags.get(258, (16,))
    values = values / (2**bits - 1)
  else:
    raise ValueError(
      "integers of 32 bits, or with a sign: it is not known which number is"
      " white; save integers of 16 bits without a sign"
    )
  # Tag 262 is 0 if white is zero; Pillow does not invert such images.
  return 1 - values if tags.get(262) == 0 else values


def _what(data: bytes, error: Exception) -> str:
  if not data:
    return "it is empty, or could not be read"
  text = re.sub(r" ?<_io.BytesIO[^>]*>", "", str(error))
  first = text.splitlines()[0] if text else type(error).__name__
  return f"{len(data)} bytes that do not decode: {first}"[:300]
