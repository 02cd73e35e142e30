"""Pictures of a run for its page: views, reconstructions, attention."""

from __future__ import annotations

import io
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sslx import storage
from sslx.features.attention import attention
from sslx.report import page, views
from sslx.report.samples import Sample
from sslx.report.workdirs import Workdir
from sslx.weights.run import Run

_WIDTH = 1200  # pixels, at most
_SIDE = 112  # pixels of a map of attention
# Anchors of a colour map whose lightness grows evenly, from dark to light.
_ANCHORS = np.array(
  [(13, 8, 60), (91, 20, 120), (173, 48, 104), (232, 107, 64), (252, 230, 140)]
)


def of_views(run: Workdir, images: int) -> str:
  """Draws the views of the first images of a run; see `views`.

  Raises:
    ConfigError: the data cannot be read here.
  """
  config = run.config.copy_and_resolve_references()
  with config.unlocked():
    config.data.prepare = False  # A report downloads nothing.
  return page.data_uri(views.draw(views.first_views(config, images)))


def of_workdir(run: Workdir, most: int) -> dict[str, list[tuple[int, str]]]:
  """Reads the pictures that the run drew at its evaluations.

  Args:
    run: the run.
    most: how many to take of each name, evenly over the run.

  Returns:
    (step, `data:` address) by name of the pictures.
  """
  found = {}
  for name, files in run.pictures().items():
    places = np.linspace(0, len(files) - 1, min(most, len(files)))
    for step, file in (files[i] for i in np.unique(places.round().astype(int))):
      with storage.accessing(file, "read"):
        data = file.read_bytes()
      try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
      except OSError:  # Not a picture, or one that is being written.
        continue
      uri = page.data_uri(picture, most=_WIDTH)
      found.setdefault(name, []).append((step, uri))
  return found


class Looked(NamedTuple):
  """What a network looks at in an image, as `data:` addresses.

  Attributes:
    picture: the image.
    mean: the mean over the heads.
    heads: the map of each head.
  """

  picture: str
  mean: str
  heads: list[str]


def of_attention(run: Run, sample: Sample, images: int) -> list[Looked]:
  """Draws the attention of a ViT's last block to the first images of a sample.

  Each map has colours of its own, from 0 to its greatest weight.
  """
  pixels = sample.images.images[:images]
  maps = np.asarray(jax.jit(lambda x: attention(run, x))(jnp.asarray(pixels)))
  return [
    Looked(
      page.data_uri(_scaled(sample.shown(i))),
      page.data_uri(_coloured(heads.mean(axis=0))),
      [page.data_uri(_coloured(head)) for head in heads],
    )
    for i, heads in enumerate(maps)
  ]


def _scaled(pixels: np.ndarray) -> Image.Image:
  return Image.fromarray(pixels).resize((_SIDE, _SIDE))


def _coloured(weights: np.ndarray) -> Image.Image:
  """Colours weights f32[rows, columns]."""
  share = weights / max(weights.max(), 1e-12)
  places = np.linspace(0, 1, len(_ANCHORS))
  channels = [np.interp(share, places, anchor) for anchor in _ANCHORS.T]
  picture = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))
  return picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
