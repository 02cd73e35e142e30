"""Compares the loader with other libraries on the same images and views.

All are measured alternating.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sslx.benchmark import peers
from sslx.benchmark.measure import (
  device_part,
  in_turns,
  on_cpu,
  one_device,
  spread,
)
from sslx.config import ConfigError
from sslx.data import crops, loader, operations, pipeline
from sslx.data import views as views_lib
from sslx.data.order import Order
from sslx.data.sets import Arrays, Images
from sslx.data.views import Crop

_ENCODED, _PIXELS = 32, 512  # images per round
_LEAST = 0.5  # minimum seconds per measurement
_OURS, _WHOLE = "sslx, uint8 views", "sslx with the device's part"


def compare(data: pipeline.Data, images: Images, rounds: int) -> None:
  """Prints images/s of each library, the ratios, and the PSNR of our crops.

  Args:
    data: config section.
    images: the set, of which a sample is used.
    rounds: number of rounds, each with different images.

  Raises:
    ConfigError: no peer can make such views or read such images.
  """
  for i, view in enumerate(data.views):
    if type(view) is not Crop or view.link is not None:
      how = f"of kind {view.kind!r}" if view.link is None else "linked"
      raise ConfigError(
        f"config.data.views.{i} is {how}, and none of the peers makes such"
        " views. Leave out --peers."
      )
  chunks = _chunks(images, rounds)
  in_memory = isinstance(images, Arrays)
  ours = {_WHOLE: _pixels(data)} if in_memory else _encoded(data)
  listed = {p.label: p for p in peers.peers(data)}
  prepare = ours | {k: p.make(data) for k, p in listed.items() if p.version}
  runs = {
    name: [make(chunk) for chunk in chunks] for name, make in prepare.items()
  }
  work = {name: lambda turn, r=r: r[turn]() for name, r in runs.items()}
  # Core time does not include the work of an accelerator.
  clock = time.process_time if on_cpu() else time.perf_counter
  seconds = in_turns(work, rounds, clock=clock, least=_LEAST)

  what = "uint8 pixels" if in_memory else "encoded bytes"
  time_of = "core" if on_cpu() else "wall"
  print(
    f"from {what} in memory to the views, one thread on one core, in turns:"
    f"\n{rounds} rounds of {len(chunks[0])} images, images/s of {time_of} time,"
    f" load {os.getloadavg()[0]:.1f}"
  )
  first, *_ = seconds
  for name, times in seconds.items():
    rates = spread([len(chunks[0]) / x for x in times])
    line = f"  {name:28} {rates}"
    if name in listed:
      ratios = [a / b for a, b in zip(times, seconds[first], strict=True)]
      ratio = f"ours {statistics.median(ratios):.2f} x"
      line = f"{line:62}  {ratio}, {listed[name].version}"
    print(line)
  for name, peer in listed.items():
    if not peer.version:
      print(f"  {name:28} not installed (pip install {peer.package})")

  left = _left_to_the_device(data)
  if in_memory:
    print(f"ours is done by one {one_device()}: gather, transfer, cut, {left}")
  else:
    pairs = zip(seconds[_WHOLE], seconds[_OURS], strict=True)
    part = statistics.median(a - b for a, b in pairs) / len(chunks[0])
    print(
      f"ours leaves to the device: {left}; with the transfer that\ntakes"
      f" {part * 1e3:.2f} ms of one {one_device()} an image. The peers do it on"
      " the host\n(one of them all but the blur, if there is any)."
    )
  psnr = [x for chunk in chunks for x in _psnr(data, chunk)]
  print(
    "PSNR of our crops against Pillow's of the same boxes: median"
    f" {statistics.median(psnr):.1f} dB, worst {min(psnr):.1f} dB,"
    f" {len(psnr)} views"
  )


def _left_to_the_device(data: pipeline.Data) -> str:
  names = ("jitter", "grey", "blur", "solarize")
  used = [
    name
    for name in names
    if any(np.any(getattr(view, name)) for view in data.views)
  ]
  return ", ".join([*used, "normalise"])


@dataclasses.dataclass(frozen=True)
class _InMemory(Images):
  """Encoded images in memory."""

  images: list[bytes | np.ndarray]

  def __len__(self) -> int:
    return len(self.images)

  def read(self, indices: Sequence[int]) -> tuple[list, np.ndarray]:
    """See `sets.Images`."""
    labels = np.full(len(indices), -1, np.int32)
    return [self.images[i] for i in indices], labels


def _chunks(images: Images, rounds: int) -> list[list]:
  """A sample of images for each round, which all libraries can read."""
  n = _PIXELS if isinstance(images, Arrays) else _ENCODED
  order = np.random.default_rng(0).permutation(len(images))[: 2 * rounds * n]
  if isinstance(images, Arrays):
    found = list(images.images[order])
  else:
    found = [x for x in images.read(order)[0] if _common(x)]
  if not found:
    raise ConfigError(
      "--peers compares images that every library reads: JPEG and PNG files,"
      f" grey or RGB. None of the first {len(order)} images is such a file."
    )
  found = itertools.cycle(found)
  return [list(itertools.islice(found, n)) for _ in range(rounds)]


def _common(image: bytes | np.ndarray) -> bool:
  if isinstance(image, np.ndarray):
    return False
  try:
    with Image.open(io.BytesIO(image)) as opened:
      opened.load()
      return opened.format in ("JPEG", "PNG") and opened.mode in ("L", "RGB")
  except (OSError, ValueError, SyntaxError):
    return False


def _encoded(data: pipeline.Data) -> dict[str, peers.Prepare]:
  """The host's part of the input as in training, and both parts together."""
  put, preprocess = device_part(data)

  def prepare(images):
    n = len(images)
    order = Order(n, n, 1_000_000, 0)
    memory = _InMemory(images)
    cut = loader.CutViews(
      memory,
      order,
      np.arange(n),
      data.views,
      views_lib.unshuffled(len(views_lib.each(data.views))),
      threads=1,
      exif=False,  # The peers do not apply it.
    )
    batches = map(cut, itertools.count())
    return lambda: next(batches).arrays

  def whole(images):
    host = prepare(images)
    return lambda: jax.block_until_ready(preprocess(put(host())))

  return {_OURS: prepare, _WHOLE: whole}


def _pixels(data: pipeline.Data) -> peers.Prepare:
  """The input of small images: gather, transfer, and the device's part."""
  put, preprocess = device_part(data)

  def prepare(images):
    pixels, n = np.stack(images), len(images)
    order = Order(n, n, 1_000_000, 0)
    labels = np.full(n, -1, np.int32)
    batches = itertools.count()

    def run():
      gathered = pixels[order[next(batches)]]
      batch = put({"image": gathered, "label": labels})
      return jax.block_until_ready(preprocess(batch))

    return run

  return prepare


def _psnr(data: pipeline.Data, images: list) -> Iterator[float]:
  """PSNR of every view of each image against Pillow's crop and resize."""
  decoded = [peers.pillow(image) for image in images]
  sizes = np.array([(x.height, x.width) for x in decoded])
  rng = np.random.default_rng(0)
  for view in views_lib.each(data.views):
    uniforms = rng.random((len(images), view.num_uniforms))
    boxes = view.boxes(uniforms, *sizes.T)[0][:, 0]
    cubic = view.interpolation == "bicubic"
    if isinstance(images[0], np.ndarray):
      unflipped = jnp.zeros(len(images), bool)
      ours = operations.crop_resize(
        np.stack(images), boxes, unflipped, view.size, view.interpolation
      )
      ours = np.asarray(jnp.round(ours * 255))
    else:
      ours = np.empty((len(images), *view.shape()), np.uint8)
      for image, box, out in zip(images, boxes.tolist(), ours, strict=True):
        picture = crops.read(image, exif=False)
        crops.cut(picture, [crops.Cut(tuple(box), cubic=cubic)], [out])
    kind = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    for image, (top, left, tall, wide), mine in zip(
      decoded, boxes.tolist(), ours, strict=True
    ):
      cropped = image.crop((left, top, left + wide, top + tall))
      theirs = np.asarray(cropped.resize((view.size, view.size), kind), float)
      error = np.mean((theirs - mine) ** 2)
      yield 10 * np.log10(255**2 / max(error, 1e-5))
