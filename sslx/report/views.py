"""The views of a run: what the network is given at the first step.

Some images of the first batch, the boxes that are cropped from them, and every
view with a list of its augmentations.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from sslx import config as config_lib
from sslx import step as step_lib
from sslx.data import (
  augment,
  crops,
  loader,
  operations,
  pipeline,
  sets,
  sources,
)
from sslx.data import views as views_lib
from sslx.data.order import Order
from sslx.data.views import View

_GAP, _LINE, _LEGEND = 12, 14, 6  # pixels, pixels, lines
_SMALLEST = 160  # pixels; smaller views are magnified by an integer factor
_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080",
            "#9a6324", "#000075", "#808000")  # fmt: skip


class Shown(NamedTuple):
  """One image of a batch and its views.

  Attributes:
    image: uint8[h, w, 3].
    boxes: for each view, its one or nine boxes, float[4] each: top, left,
      height, width.
    views: float[size, size, 3] in [0, 1], or [9, size, size, 3].
    legends: for each view, its lines of text.
  """

  image: np.ndarray
  boxes: list[np.ndarray]
  views: list[np.ndarray]
  legends: list[list[str]]


def first_views(config: ConfigDict, n: int) -> list[Shown]:
  """Makes the views of the first images of the first batch.

  Args:
    config: the whole config, with its four sections.
    n: number of images.

  Raises:
    ConfigError: the config's data cannot be read.
  """
  data = config_lib.build(pipeline.Data, config.data, "data")
  seed = config.runtime.seed
  images = sources.load(data.records, "train")
  data.check_views(images)
  order = Order(len(images), data.batch_size, 1, seed)
  rows = np.arange(min(n, data.batch_size))
  indices = order[0][rows]
  rng = jax.random.wrap_key_data(step_lib.first_rng(jax.random.key(seed)))
  rng_augment, _ = step_lib.step_keys(rng, 0)
  keys = augment.example_keys(rng_augment, jnp.arange(len(indices)))

  if isinstance(images, sets.Arrays):
    originals = list(images.images[indices])
    make = jax.jit(functools.partial(views_lib.make_views, data.views))
    views = make(images.images[indices], keys)
    cuts = _device_cuts(data.views, originals[0].shape[:2], keys)
  else:
    slots = views_lib.unshuffled(len(views_lib.each(data.views)))
    cutter = loader.CutViews(
      images, order, rows, data.views, slots, 1, data.exif
    )
    arrays, bad = cutter(0)
    colour = jax.jit(functools.partial(views_lib.colour_views, data.views))
    views = colour(arrays["views"], keys)
    shown = _replaced(images, indices, dict(bad))
    originals = [_whole(images, index, data.exif) for index in shown]
    places = np.arange(len(indices))
    cuts = cutter.cuts(0, places, [x.shape[:2] for x in originals])
  if data.channels == 1:
    views = [x if x.shape[-1] == 1 else operations.grayscale(x) for x in views]
  colours = [view.told(mine) for view, mine in _keyed(data.views, keys)]
  return [
    _shown(
      originals[i],
      data.views,
      cuts[i],
      [np.asarray(view[i]) for view in views],
      [legends[i] for legends in colours],
    )
    for i in range(len(indices))
  ]


def _replaced(
  images: sets.Images, indices: np.ndarray, bad: dict[int, str]
) -> list[int]:
  """Replaces undecodable images by a neighbour, by the rule of `CutViews`."""
  for index, reason in bad.items():
    print(
      f"{images.name(index)} cannot be decoded ({reason}); its neighbour takes"
      " its place"
    )
  found = []
  for index in map(int, indices):
    while index in bad:
      index = (index + 1) % len(images)
    found.append(index)
  return found


def _whole(images: sets.Images, index: int, exif: bool) -> np.ndarray:
  (data,), _ = images.read([index])
  if isinstance(data, np.ndarray):
    return data
  try:
    return crops.decode(data, exif)
  except crops.BadImage as error:  # The damage is outside all views.
    raise config_lib.ConfigError(
      f"{images.name(index)} is damaged, and cannot be shown whole ({error})."
      " Repair or remove it."
    ) from error


def _keyed(
  views: tuple[View, ...], keys: jax.Array
) -> list[tuple[View, jax.Array]]:
  """Returns every view with the keys of its random numbers."""
  numbers = views_lib.drawn(views)
  mine = [augment.fold(keys, n) for n in numbers]
  return list(zip(views_lib.each(views), mine, strict=True))


def _device_cuts(
  views: tuple[View, ...], size: tuple[int, int], keys: jax.Array
) -> list[list[list[crops.Cut]]]:
  """Returns what `views.cut_views` cuts out of each image."""
  columns = []
  for view, mine in _keyed(views, keys):
    boxes, flips = view.boxes(view.uniforms(mine), *size, jnp)
    columns.append(
      [
        [crops.Cut(tuple(box), bool(flip)) for box in mine]
        for mine, flip in zip(np.asarray(boxes), np.asarray(flips), strict=True)
      ]
    )
  return [list(cuts) for cuts in zip(*columns, strict=True)]


def _shown(image, views, cuts, pictures, colours) -> Shown:
  boxes, legends = [], []
  kinds = views_lib.each(views)
  for view, mine, colour in zip(kinds, cuts, colours, strict=True):
    boxes.append(np.array([cut.box for cut in mine]))
    if len(mine) == 1:
      top, left, tall, wide = map(int, mine[0].box)
      share = tall * wide / np.prod(image.shape[:2])
      where = f"{wide} x {tall} at {left}, {top} ({share:.0%})"
    else:
      where = f"{len(mine)} of {view.size} px"
    legends.append([where, *(["flipped"] if mine[0].flip else []), *colour])
  image, *pictures = map(operations.visible, (image, *pictures))
  return Shown(image, boxes, pictures, legends)


def draw(shown: list[Shown]) -> Image.Image:
  """Draws a row for each image: the original with its boxes, then its views."""
  font = ImageFont.load_default(size=11)
  rows = []
  for one in shown:
    tiles = [(_original(one), [f"{one.image.shape[1]} x {one.image.shape[0]}"])]
    for i, (view, legend) in enumerate(
      zip(one.views, one.legends, strict=True)
    ):
      tile = _picture(_sheet(view) if view.ndim == 4 else view)
      ImageDraw.Draw(tile).rectangle(
        (0, 0, tile.width - 1, tile.height - 1),
        outline=_COLOURS[i % len(_COLOURS)],
        width=2,
      )
      tiles.append((tile, legend))
    rows.append(tiles)
  columns = range(max(map(len, rows)))
  widths = [max(tiles[c][0].width for tiles in rows) for c in columns]
  widths = [max(width, 190) for width in widths]
  heights = [
    max(tile.height for tile, _ in tiles) + _LINE * _LEGEND for tiles in rows
  ]
  size = (
    sum(widths) + _GAP * (len(widths) + 1),
    sum(heights) + _GAP * (len(heights) + 1),
  )
  sheet = Image.new("RGB", size, "white")
  pen = ImageDraw.Draw(sheet)
  y = _GAP
  for tiles, height in zip(rows, heights, strict=True):
    x = _GAP
    for (tile, legend), width in zip(tiles, widths, strict=True):
      sheet.paste(tile, (x, y))
      for line, text in enumerate(legend):
        at = (x, y + tile.height + 2 + _LINE * line)
        pen.text(at, text, fill="black", font=font)
      x += width + _GAP
    y += height + _GAP
  return sheet


def _original(one: Shown) -> Image.Image:
  tile = Image.fromarray(one.image)
  scale = 224 / min(tile.size)
  tile = tile.resize([round(side * scale) for side in tile.size])
  pen = ImageDraw.Draw(tile)
  for i, boxes in enumerate(one.boxes):
    for top, left, tall, wide in boxes * scale:
      box = (left, top, left + wide - 1, top + tall - 1)
      pen.rectangle(box, outline=_COLOURS[i % len(_COLOURS)], width=2)
  return tile


def _picture(view: np.ndarray) -> Image.Image:
  pixels = np.clip(np.asarray(view) * 255 + 0.5, 0, 255).astype(np.uint8)
  factor = max(1, _SMALLEST // len(pixels))
  return Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))


def _sheet(patches: np.ndarray) -> np.ndarray:
  """Arranges nine patches in their places, with white between them."""
  size = patches.shape[1]
  gap = max(1, size // 16)
  side = 3 * size + 2 * gap
  sheet = np.ones((side, side, 3), np.float32)
  for place, patch in enumerate(patches):
    y, x = ((size + gap) * p for p in divmod(place, 3))
    sheet[y : y + size, x : x + size] = patch
  return sheet
