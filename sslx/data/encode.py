"""Encodes an image for a prepared set: unchanged, a smaller JPEG, or pixels."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from sslx.data import crops

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Form:
  """How the images of a set are stored.

  Attributes:
    short_side: larger images are resized to this short side; None does not
      resize.
    quality: JPEG quality of resized images; None stores pixels.
    jpeg: whether all images must be JPEGs, as in TFDS's ImageNet. Otherwise
      images that decoders disagree on (CMYK, 16 bits, transparency, WebP, ...)
      become PNGs.
  """

  short_side: int | None = None
  quality: int | None = None
  jpeg: bool = False

  @property
  def raw(self) -> bool:
    """Whether pixels are stored."""
    return self.short_side is not None and self.quality is None

  @property
  def only_jpeg(self) -> bool:
    """Whether every image is stored as a JPEG."""
    return self.jpeg or self.quality is not None

  @property
  def suffix(self) -> str:
    """Suffix that distinguishes the set's name from the original's."""
    if self.short_side is None:
      return ""
    if self.raw:
      return f"_raw{self.short_side}"
    return f"_short{self.short_side}_q{self.quality}"


def encode(
  data: bytes, form: Form
) -> tuple[bytes, tuple[int, int, int] | None]:
  """Encodes an image as the set stores it.

  Args:
    data: an encoded image.
    form: how the set stores images.

  Returns:
    An encoded image and None; or pixels and their (height, width, 3).

  Raises:
    crops.BadImage: the image cannot be decoded.
  """
  image = crops.decode(data)  # Even if stored unchanged: finds damaged images.
  height, width, _ = image.shape
  short = min(height, width)
  if form.short_side is not None and short > form.short_side:
    scale = form.short_side / short
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Antialiased. OpenCV's INTER_AREA is faster but less sharp.
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    image = np.asarray(resized)
    if not form.raw:
      return simplejpeg.encode_jpeg(image, form.quality, "RGB", "420"), None
  if form.raw:
    return image.tobytes(), image.shape
  if _is_plain_jpeg(data) or (_is_plain_png(data) and not form.only_jpeg):
    return data, None
  if form.only_jpeg:
    return simplejpeg.encode_jpeg(image, 100, "RGB", "444"), None
  return cv2.imencode(".png", image[..., ::-1])[1].tobytes(), None


def _is_plain_jpeg(data: bytes) -> bool:
  if data[:2] != b"\xff\xd8":
    return False
  try:
    _, _, colors, _ = simplejpeg.decode_jpeg_header(data, strict=False)
  except ValueError:
    return False
  return colors in ("Gray", "YCbCr", "RGB")


def _is_plain_png(data: bytes) -> bool:
  # Bytes 24 and 25 are bit depth and colour type: 8 bits, grey or RGB.
  return data[:8] == _PNG and data[24] == 8 and data[25] in (0, 2)
