"""File extensions of images, and which of them can be read.

The readable formats are those that the installed Pillow and its plugins decode.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
from collections.abc import Iterable, Iterator, Mapping

from PIL import Image

# Documents, drawings and data that Pillow lists as images. Pillow starts a
# program to read some of them.
_NO_IMAGES = frozenset("BUFR EPS FPX GRIB HDF5 MIC MPEG PDF WMF".split())
_PLUGINS = ("pillow_heif", "pillow_jxl")  # modules that add formats to Pillow
_DRAWINGS = "drawings; convert them to PNG"
_RAW = "camera raw; convert them to JPEG, or to TIFF of 16 bits"
_SCIENCE = "not read by Pillow; convert them to PNG of 8 or 16 bits"
_NOT_BUILT = "the Pillow that is installed cannot read them"
# Extensions of images that Pillow may not read by itself, by advice or reason.
_ADVICE = {
  "pip install pillow-heif": "heic heics heif heifs hif",
  "pip install pillow-jxl-plugin": "jxl",
  _RAW: (
    "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mrw nef nrw orf pef raf raw"
    " rw2 rwl sr2 srf srw x3f"
  ),
  _DRAWINGS: "ai eps emf svg svgz wmf",
  _SCIENCE: "czi dcm dicom exr hdr lsm mha mrc ndpi nii nrrd svs vsi",
  _NOT_BUILT: "avif avifs jp2 j2k jpx psb webp xcf",
}
_REASONS = {
  ending: reason for reason, all_ in _ADVICE.items() for ending in all_.split()
}


@functools.cache
def _readable() -> Mapping[str, str]:
  """Maps each readable extension to Pillow's name of the format."""
  for module in _PLUGINS:
    with contextlib.suppress(ImportError):
      plugin = importlib.import_module(module)
      if hasattr(plugin, "register_heif_opener"):
        plugin.register_heif_opener()
  Image.init()
  found = {ending[1:]: name for ending, name in Image.EXTENSION.items()}
  found["mpo"] = "JPEG"  # Several images in one file: the first is read.
  return {
    ending: name
    for ending, name in found.items()
    if name in Image.OPEN and name not in _NO_IMAGES
  }


@functools.cache
def names() -> tuple[str, ...]:
  """Pillow's names of all readable formats."""
  return tuple(dict.fromkeys(_readable().values()))


@functools.cache
def endings() -> tuple[str, ...]:
  """The extensions of all images, readable or not."""
  return tuple(sorted({*_REASONS, *_readable()}))


def sieve(
  paths: Iterable[bytes], others: collections.Counter[str]
) -> Iterator[bytes]:
  """Yields the paths of readable images, in order.

  Args:
    paths: paths of any files.
    others: is updated with the number of unreadable images by extension.
  """
  here = _readable()
  for path in paths:
    _, dot, ending = path.rpartition(b".")
    kind = ending.decode(errors="replace").lower() if dot else ""
    if kind in here:
      yield path
    elif kind in _REASONS:
      others[kind] += 1


def unread(others: Mapping[str, int]) -> str:
  """Lists how many images of each extension cannot be read, and why."""
  return ", ".join(
    f"{count:,} .{kind} ({_REASONS[kind]})"
    for kind, count in sorted(others.items())
  )
