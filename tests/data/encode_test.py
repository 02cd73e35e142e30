"""What is stored of images of every kind."""

import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from sslx.data import crops, encode

SMOOTH = cv2.resize(
  np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (160, 120)
)


def file_of(image, kind, **options):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind, **options)
  return buffer.getvalue()


def psnr(a, b):
  return -10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2) + 1e-12)


@pytest.mark.parametrize("short_side", [None, 120, 200])
def test_jpegs_that_are_small_enough_are_kept_as_they_are(short_side):
  quality = None if short_side is None else 90
  for image in (SMOOTH, SMOOTH[..., 0]):
    data = file_of(image, "jpeg")
    stored, shape = encode.encode(data, encode.Form(short_side, quality))
    assert stored == data
    assert shape is None


def test_larger_images_become_smaller_jpegs():
  data = file_of(SMOOTH, "jpeg", quality=97, subsampling=0)
  stored, shape = encode.encode(data, encode.Form(60, 90))
  assert shape is None
  height, width, colors, subsampling = simplejpeg.decode_jpeg_header(stored)
  assert (height, width, colors, subsampling) == (60, 80, "YCbCr", "420")
  expected = Image.fromarray(SMOOTH).resize((80, 60), Image.Resampling.BICUBIC)
  assert psnr(crops.decode(stored), np.asarray(expected)) > 30
  smaller, _ = encode.encode(data, encode.Form(60, 50))
  assert len(smaller) < len(stored)


def test_what_is_made_smaller_is_turned_as_its_exif_says():
  exif = Image.Exif()
  exif[0x0112] = 6
  data = file_of(SMOOTH, "jpeg", quality=97, subsampling=0, exif=exif)
  smaller, _ = encode.encode(data, encode.Form(60, 90))
  pixels, shape = encode.encode(data, encode.Form(60))
  upright = Image.fromarray(SMOOTH).transpose(Image.Transpose.ROTATE_270)
  expected = np.asarray(upright.resize((60, 80), Image.Resampling.BICUBIC))
  assert psnr(crops.decode(smaller), expected) > 30
  assert psnr(np.frombuffer(pixels, np.uint8).reshape(shape), expected) > 30
  # One that is kept as it is keeps its EXIF.
  assert encode.encode(data, encode.Form())[0] == data


def test_shrinking_is_antialiased():
  stripes = np.zeros((120, 160, 3), np.uint8)
  stripes[:, ::2] = 255
  data = file_of(stripes, "png")
  pixels, shape = encode.encode(data, encode.Form(30))
  image = np.frombuffer(pixels, np.uint8).reshape(shape)
  assert abs(image[:, 3:-3].astype(int) - 127).max() < 12


@pytest.mark.parametrize(
  ("size", "expected"),
  [
    ((120, 160), (32, 43, 3)),
    ((160, 120), (43, 32, 3)),
    ((20, 10), (20, 10, 3)),  # Never larger.
    ((33, 2000), (32, 1939, 3)),
    ((1, 1), (1, 1, 3)),
  ],
)
def test_pixels(size, expected):
  data = file_of(np.full((*size, 3), (9, 99, 199), np.uint8), "png")
  pixels, shape = encode.encode(data, encode.Form(32))
  assert shape == expected
  image = np.frombuffer(pixels, np.uint8).reshape(shape)
  assert (image == (9, 99, 199)).all()


def make(kind):
  pil = Image.fromarray(SMOOTH)
  buffer = io.BytesIO()
  if kind == "cmyk":
    pil.convert("CMYK").save(buffer, "jpeg", quality=98)
  elif kind == "palette":
    pil.quantize(64).save(buffer, "png")
  elif kind == "alpha":
    pil.putalpha(255)
    pil.save(buffer, "png")
  elif kind == "deep":
    Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257).save(buffer, "png")
  else:
    pil.save(buffer, kind)
  return buffer.getvalue()


@pytest.mark.parametrize(
  "kind", ["cmyk", "palette", "alpha", "deep", "webp", "bmp", "gif", "tiff"]
)
def test_what_readers_disagree_on_becomes_png_or_jpeg(kind):
  data = make(kind)
  stored, shape = encode.encode(data, encode.Form())
  assert shape is None
  with Image.open(io.BytesIO(stored)) as image:
    assert (image.format, image.mode) == ("PNG", "RGB")
    np.testing.assert_array_equal(np.asarray(image), crops.decode(data))
  # As in TFDS's ImageNet, where one image is a PNG and 22 are CMYK.
  stored, shape = encode.encode(data, encode.Form(jpeg=True))
  assert simplejpeg.decode_jpeg_header(stored)[2:] == ("YCbCr", "444")
  assert psnr(crops.decode(stored), crops.decode(data)) > 38


def test_plain_pngs_are_kept_unless_all_have_to_be_jpegs():
  for image in (SMOOTH, SMOOTH[..., 0]):
    data = file_of(image, "png")
    assert encode.encode(data, encode.Form()) == (data, None)
    for form in (encode.Form(jpeg=True), encode.Form(200, 90)):
      stored, _ = encode.encode(data, form)
      assert stored[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
  "data",
  [b"", b"text", file_of(SMOOTH, "jpeg")[:900], file_of(SMOOTH, "png")[:900]],
)
@pytest.mark.parametrize(
  "form", [encode.Form(), encode.Form(32), encode.Form(32, 90)]
)
def test_damaged_images(data, form):
  with pytest.raises(crops.BadImage):
    encode.encode(data, form)


def test_names_say_what_is_stored():
  assert encode.Form().suffix == ""
  assert encode.Form(320, 90).suffix == "_short320_q90"
  assert encode.Form(256).suffix == "_raw256"
