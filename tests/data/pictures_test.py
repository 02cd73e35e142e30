"""What becomes of each kind of image, against Pillow and by hand.

The first test is the matrix of sslx/data/README.md, cell by cell.
"""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sslx.data import crops, pictures
from sslx.data.crops import Cut
from sslx.data.pictures import BadImage
from tests.data import photos

# By libjpeg from one slope of colours, 24 x 40, with `cjpeg -sample` 4x2 and
# 2x2,2x1,1x2: simplejpeg knows neither.
ODD = {
  "4x2": (
    "/9j/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdB"
    "RkxOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09P"
    "T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAYACgDAUIAAhEBAxEB/8QA"
    "GQABAQADAQAAAAAAAAAAAAAAAAMCBAUG/8QAFxABAAMAAAAAAAAAAAAAAAAAAAIEYf/EABgB"
    "AQADAQAAAAAAAAAAAAAAAAYCBAUH/8QAHBEAAgICAwAAAAAAAAAAAAAAAAIEBQMhAREx/9oA"
    "DAMBAAIRAxEAPwDx0KmLQqYvCpi8KmNmFTFoVMXhUxaFTGhYSfSVdL8OTCpgDuwqYAMNJ2K1"
    "l64M4VMWhUxeFTFoVMAF6wdtnNK7I2i8KmAAAw2RuxWuRuuD/9k="
  ),
  "2x2,2x1,1x2": (
    "/9j/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdB"
    "RkxOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09P"
    "T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAYACgDASIAAiEBAxIB/8QA"
    "GAABAQEBAQAAAAAAAAAAAAAAAAMFAgb/xAAXEAADAQAAAAAAAAAAAAAAAAAAAgRh/8QAGQEA"
    "AwEBAQAAAAAAAAAAAAAAAAQFBgIH/8QAGBEBAQEBAQAAAAAAAAAAAAAAAAMEAiL/2gAMAwEA"
    "AhEDEQA/APHJJhZJMNdJMLJJhpaaSNNLjNVLzVZKSYXSTDWSTCySYJU0kaaWyzVTM1WSkmA3"
    "UkwCNNIa2dfKZOvl2kmFkkwAvU76I076eZ5qhdJMLJJgAjTvojSnS/mqF0kwACNKdBanXyH/"
    "2Q=="
  ),
}


@pytest.fixture(params=["native", "fallback"])
def decoder(request, monkeypatch):
  """Each of the two ways to decode a JPEG."""
  if request.param == "fallback":
    monkeypatch.setattr(crops, "_native", None)
  elif crops._native is None:
    pytest.skip("the native decoder is not built: setup.py build_ext --inplace")


def opened(data):
  return Image.open(io.BytesIO(data))


def by_pillow(image):
  return np.asarray(image.convert("RGB"))


def by_range(white):
  """Of grey: the share of white, as 8 bits."""

  def scaled(image):
    grey = np.rint(np.asarray(image, np.float64) * (255 / white))
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)

  return scaled


RGB = Image.fromarray(photos.photo(20, 32))
RGBA = RGB.copy()
RGBA.putalpha(Image.fromarray(np.tile(np.arange(0, 256, 8, np.uint8), (20, 1))))
SLOPE = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (20, 1))
MODES = {
  "1": RGB.convert("1"), "L": RGB.convert("L"), "LA": RGBA.convert("LA"),
  "P": RGB.quantize(32), "RGB": RGB, "RGBA": RGBA, "CMYK": RGB.convert("CMYK"),
  "I;16": Image.fromarray(SLOPE),
  "F": Image.fromarray(SLOPE.astype(np.float32) / 65535),
}  # fmt: skip
SCALED = {"I;16": by_range(65535), "F": by_range(1)}
KINDS = {
  "JPEG": ("L", "RGB", "CMYK"),
  "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
  "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
  "WEBP": ("L", "RGB", "RGBA"),
  "AVIF": ("L", "RGB", "RGBA"),
  "GIF": ("1", "L", "P"),
  "BMP": ("1", "L", "P", "RGB"),
  "PPM": ("1", "L", "RGB", "I;16", "F"),
  "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
  "TGA": ("L", "P", "RGB", "RGBA"),
}
TURNED = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF")
CELLS = [
  (kind, mode, orientation)
  for kind, modes in KINDS.items()
  for mode in modes
  for orientation in (range(1, 9) if kind in TURNED else (1,))
]


def save(kind, mode, orientation):
  settings = {"exif": exif_of(orientation)} if orientation > 1 else {}
  return photos.save(MODES[mode], kind, **settings)


def exif_of(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return exif


def upright(pixels, orientation):
  image = Image.fromarray(pixels)
  image.getexif()[0x0112] = orientation
  return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize(("kind", "mode", "orientation"), CELLS)
def test_what_the_network_gets(kind, mode, orientation):
  data = save(kind, mode, orientation)
  stored = SCALED.get(mode, by_pillow)(opened(save(kind, mode, 1)))
  expected = upright(stored, orientation)
  assert pictures.read(data).size == expected.shape[:2]
  found = pictures.decode(data)
  assert found.flags.c_contiguous
  # Another rounding of the product with black.
  off = 1 if (kind, mode) == ("JPEG", "CMYK") else 0
  np.testing.assert_allclose(np.int16(found), expected, rtol=0, atol=off)
  assert pictures.read(data, exif=False).size == stored.shape[:2]
  found = pictures.decode(data, exif=False)
  np.testing.assert_allclose(np.int16(found), stored, rtol=0, atol=off)
  assert found.std() > 10  # No blank compared with another.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_cut_is_of_the_upright_image(decoder, kind, orientation):
  image = Image.fromarray(photos.photo(90, 140))
  data = photos.save(image, kind, exif=exif_of(orientation))
  whole = upright(by_pillow(opened(photos.save(image, kind))), orientation)
  picture, pillow = pictures.read(data), Image.fromarray(whole)
  assert picture.size == whole.shape[:2]
  for flip in (False, True):
    for bounded, box in ((True, (7, 11, 60, 41)), (False, (7.5, 11, 60, 41.2))):
      out = np.empty((24, 30, 3), np.uint8)
      crops.cut(picture, [Cut(box, flip, False, bounded)], [out])
      top, left, tall, wide = box
      region = (left, top, left + wide, top + tall)
      theirs = pillow.crop(region) if bounded else pillow
      region = None if bounded else region
      theirs = theirs.resize((30, 24), Image.Resampling.BILINEAR, region)
      theirs = ImageOps.mirror(theirs) if flip else theirs
      assert np.abs(out - np.int16(theirs)).max() <= 3


def test_damaged_exif_turns_nothing():
  data = photos.save(RGB, "JPEG", exif=exif_of(6))
  at = data.index(b"Exif\0\0") + 6
  for damaged in (data[:at] + b"junk" + data[at + 4 :], data[: at + 9]):
    assert pictures.read(data).size == (32, 20)
    if len(damaged) == len(data):
      assert pictures.read(damaged).size == (20, 32)
    else:
      with pytest.raises(BadImage):
        pictures.read(damaged)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("value", [1, 3, 6, 9, None])
@pytest.mark.parametrize("xmp", [b"", b'<x tiff:Orientation="8"/>'])
def test_exif_of_any_kind_turns_as_pillow_does(endian, value, xmp):
  exif = Image.Exif()
  exif.endian = endian
  exif[0x010F], exif[0x0131] = "a maker", "a program"
  if value is not None:
    exif[0x0112] = value
  data = photos.save(RGB, "JPEG", exif=exif, xmp=xmp)
  assert (b"Exif\0\0II" in data) == (endian == "<")
  expected = opened(data).getexif().get(0x0112, 1)
  expected = expected if expected in range(1, 9) else 1
  assert pictures.read(data).orientation == expected
  assert pictures.read(data, exif=False).orientation == 1


def test_orientation_of_xmp():
  xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
  data = photos.save(RGB, "JPEG", xmp=xmp)
  assert opened(data).getexif()[0x0112] == 6
  assert pictures.read(data).size == (32, 20)
  np.testing.assert_array_equal(
    pictures.decode(data), upright(by_pillow(opened(data)), 6)
  )


# One reader: what has a size has pixels of that size.


@pytest.mark.parametrize("sampling", ODD)
def test_jpegs_of_any_sampling(decoder, sampling):
  data = base64.b64decode(ODD[sampling])
  picture = pictures.read(data)
  assert picture.size == (24, 40)
  out = np.zeros((24, 40, 3), np.uint8)
  crops.cut(picture, [Cut((0, 0, 24, 40))], [out])
  theirs = by_pillow(opened(data))
  np.testing.assert_array_equal(out, theirs)
  assert theirs.std() > 50


def chunk(name, body, crc=0):
  check = struct.pack(">I", zlib.crc32(name + body) ^ crc)
  return struct.pack(">I", len(body)) + name + body + check


@pytest.mark.parametrize(
  "extra",
  {
    "bad checksum": chunk(b"gAMA", bytes(4), crc=1),
    "large text": chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    "large packed text": chunk(
      b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 9_000_000)
    ),
    "bad profile": chunk(b"iCCP", b"sRGB\0\0junk"),
  }.items(),
  ids=lambda x: x[0],
)
@pytest.mark.parametrize("place", [33, -12], ids=["first", "last"])
def test_pngs_with_odd_chunks(extra, place, capfd):
  data = photos.save(RGB, "PNG")
  odd = data[:place] + extra[1] + data[place:]
  out = np.zeros((20, 32, 3), np.uint8)
  crops.cut(pictures.read(odd), [Cut((0, 0, 20, 32))], [out])
  np.testing.assert_array_equal(out, np.asarray(RGB))
  assert capfd.readouterr() == ("", "")


def rebuilt(change):
  """A PNG whose rows are changed, with the right checksums."""
  data = photos.save(RGB, "PNG")
  at = data.index(b"IDAT")
  length = int.from_bytes(data[at - 4 : at], "big")
  rows = change(zlib.decompress(data[at + 4 : at + 4 + length]))
  return data[: at - 4] + chunk(b"IDAT", rows) + data[-12:]


@pytest.mark.parametrize(
  "change",
  {
    "junk": lambda x: b"junk",
    "cut short": lambda x: zlib.compress(x[:-200]),
    "no such filter": lambda x: zlib.compress(b"\x09" + x[1:]),
    "bad check": lambda x: zlib.compress(x)[:-1] + b"\0",
  }.items(),
  ids=lambda x: x[0],
)
def test_damaged_pngs_are_bad_and_nothing_else_is_printed(change, capfd):
  with pytest.raises(BadImage, match="bytes that do not decode"):
    pictures.decode(rebuilt(change[1]))
  assert capfd.readouterr() == ("", "")


def test_pixels_of_another_size_than_the_header_says_are_bad(monkeypatch):
  data = photos.save(RGB, "PNG")
  monkeypatch.setattr(
    pictures, "_decoded", lambda data: np.zeros((10, 32, 3), np.uint8)
  )
  with pytest.raises(BadImage, match="says 20 x 32 pixels, and it has 10 x 32"):
    crops.cut(data, [Cut((0, 0, 9, 9))], [np.empty((9, 9, 3), np.uint8)])


@pytest.mark.parametrize("data", [b"<html>", bytes(99), b"RIFF1234WEBP"])
def test_reasons_are_for_people(data):
  with pytest.raises(BadImage) as caught:
    pictures.read(data)
  assert "cannot identify image file" in str(caught.value)
  assert "BytesIO" not in str(caught.value)


def test_of_several_images_in_a_file_the_first_is_seen():
  for kind in ("MPO", "GIF", "TIFF", "WEBP", "PNG"):
    others = [Image.new("RGB", RGB.size, c) for c in ("red", "blue")]
    settings = {"save_all": True, "append_images": others}
    data = photos.save(RGB.copy(), kind, **settings)
    assert opened(data).n_frames == 3
    first = by_pillow(opened(data))
    assert first.std() > 10
    np.testing.assert_array_equal(pictures.decode(data), first)


def test_a_document_starts_no_program():
  script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
  assert opened(script).format == "EPS"  # Pillow would call Ghostscript.
  with pytest.raises(BadImage, match="cannot identify"):
    pictures.read(script)


# Pixels of other kinds.


def tiff(pixels, bits, photometric, sample=1):
  """Uncompressed; `pixels` is what is in the file, [h, w] or [h, w, n]."""
  height, width, n = (*pixels.shape, 1)[:3]
  body = pixels.tobytes()
  if bits == 12:  # Two values in three bytes.
    flat = pixels.reshape(-1, 2).astype(np.uint32)
    packed = flat[:, 0] << 12 | flat[:, 1]
    body = packed.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
  shorts = {
    256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8,
    277: n, 278: height, 339: sample,
  }  # fmt: skip
  tail = 8 + len(body)
  entries, extra = b"", b""
  names = sorted({*shorts, 279, *([338] if n > 3 else [])})
  after = tail + 2 + 12 * len(names) + 4
  for tag in names:
    if tag == 279:
      entries += struct.pack("<HHII", tag, 4, 1, len(body))
      continue
    count = {258: n, 339: n, 338: n - 3}.get(tag, 1)
    value = struct.pack("<H", shorts.get(tag, 0)) * count
    if len(value) > 4:
      at, extra = after + len(extra), extra + value
      value = struct.pack("<I", at)
    entries += struct.pack("<HHI", tag, 3, count) + value.ljust(4, b"\0")
  ifd = struct.pack("<H", len(names)) + entries + bytes(4)
  return b"II*\0" + struct.pack("<I", tail) + body + ifd + extra


def test_grey_tiff_of_12_and_16_bits_is_scaled_by_its_white():
  grey = by_range(65535)(SLOPE)
  np.testing.assert_array_equal(pictures.decode(tiff(SLOPE, 16, 1)), grey)
  # White is zero.
  inverted = tiff(65535 - SLOPE, 16, 0)
  np.testing.assert_array_equal(pictures.decode(inverted), grey)
  twelve = SLOPE >> 4
  np.testing.assert_array_equal(
    pictures.decode(tiff(twelve, 12, 1)), by_range(4095)(twelve)
  )


def test_colour_of_16_bits_is_its_high_byte():
  rgb = np.stack([SLOPE, SLOPE[:, ::-1], SLOPE // 2], axis=-1)
  for data in (tiff(rgb, 16, 2), png16(rgb)):
    np.testing.assert_array_equal(pictures.decode(data), rgb >> 8)


def png16(rgb):
  height, width, _ = rgb.shape
  rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


UNIT = SLOPE.astype(np.float32) / 65535


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (tiff(UNIT * 2, 32, 1, 3), "floats from 0 to 2: it is not known which"),
    (tiff(UNIT - 0.1, 32, 1, 3), "floats from -0.1 to 0.9"),
    (tiff(np.where(UNIT > 0.9, np.nan, UNIT), 32, 1, 3), "floats from nan"),
    (tiff(SLOPE.astype(np.uint32), 32, 1), "integers of 32 bits"),
    (tiff(SLOPE.astype(np.int32), 32, 1, 2), "integers of 32 bits"),
    (tiff(SLOPE.view(np.int16), 16, 1, 2), "or with a sign"),
    (tiff(np.zeros((20, 32, 5), np.uint8), 8, 1), "cannot identify"),
    (tiff(np.zeros((20, 32, 2), np.uint16), 16, 1), "cannot identify"),
  ],
  ids=[
    "beyond 1", "below 0", "nan", "u32", "i32", "i16", "5 channels",
    "2 channels of 16 bits",
  ],
)  # fmt: skip
def test_pixels_whose_white_is_not_known_are_refused(data, reason):
  with pytest.raises(BadImage, match=reason):
    pictures.decode(data)
