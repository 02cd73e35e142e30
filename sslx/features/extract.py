"""Extracts features of a data set from any stage or block of a network."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sslx import parallel
from sslx.config import ConfigError
from sslx.data import operations
from sslx.data.sets import Images
from sslx.data.views import Centre
from sslx.evaluate.encoder import Reader
from sslx.features.table import Table
from sslx.models.vit import ViT
from sslx.weights.run import Run
from sslx.weights.state import preprocessing

_BLOCK = r"(layer\d|blocks)_\d+"


def extract(
  run: Run,
  images: Images,
  names: Sequence[str] = ("final",),
  batch_size: int = 512,
  devices: Sequence[jax.Device] | None = None,
) -> Table:
  """Extracts features of all images, with BatchNorm's running statistics.

  Args:
    run: the run whose network is used.
    images: the data set.
    names: names of features: those of the method's `encode`, or blocks. The
      output of a block is pooled like the "final" features, but without the
      last norm of a ViT.
    batch_size: images per batch, rounded up to a multiple of the devices.
    devices: devices to run on; by default all.

  Raises:
    ConfigError: the network has no features of that name, or the images do not
      have the channels of its input.
  """
  partitioner = parallel.Partitioner.create(parallel.Parallel(), devices)
  data = dataclasses.replace(run.data, centre=centre(run))
  read = Reader(data, partitioner, batch_size)
  run.data.check_channels(images)
  _check_names(run, names)
  encode = jax.jit(
    lambda params, model_state, pixels: _encode(
      run, names, params, model_state, pixels
    ),
    out_shardings=partitioner.batch,
  )
  weights = jax.device_put(
    (run.params, run.model_state), partitioner.replicated
  )
  rows, labels, bad = [], [], []
  for pixels, mine in read(
    images, on_bad=lambda index, reason: bad.append(index)
  ):
    rows.append(jax.device_get(encode(*weights, pixels)))
    labels.append(jax.device_get(mine))
  labels = np.concatenate(labels)[: len(images)]
  if images.num_classes is None:
    labels = np.full(len(images), -1, np.int32)
  valid = ~np.isin(np.arange(len(images)), bad)
  features = {
    name: np.concatenate([x[name] for x in rows])[: len(images)][valid]
    for name in names
  }
  return Table(
    features,
    labels[valid],
    [images.file_name(int(i)) for i in np.flatnonzero(valid)],
    [images.file_name(int(i)) for i in np.flatnonzero(~valid)],
  )


def _encode(
  run: Run,
  names: Sequence[str],
  params: Any,
  model_state: Any,
  pixels: jax.Array,
) -> dict[str, jax.Array]:
  """Encodes uint8[b, h, w, 3] to f32[b, d] by name."""
  images = operations.normalize(pixels, run.data.mean, run.data.std)
  blocks = [name for name in names if re.fullmatch(_BLOCK, name)]
  features = {}
  if len(blocks) < len(names):
    features = run.method.encode(params, model_state, images)
  if blocks:
    variables = {
      "params": params["backbone"],
      "batch_stats": model_state["backbone"],
    }
    _, captured = without_remat(run.backbone).apply(
      variables,
      images,
      train=False,
      capture_intermediates=lambda module, _: module.name in blocks,
      mutable=["intermediates"],
    )
    for name in blocks:
      (x,) = captured["intermediates"][name]["__call__"]
      features[name] = _pooled(run.backbone, x)
  return {name: features[name].astype(jnp.float32) for name in names}


def _pooled(backbone: Any, x: jax.Array) -> jax.Array:
  """Pools a block's tokens [b, t, d] or map [b, h, w, d] to f32[b, d]."""
  x = x.astype(jnp.float32)
  if isinstance(backbone, ViT):
    return backbone.pooled(x)[backbone.features]
  return jnp.mean(x, axis=(1, 2))


def without_remat(backbone: Any) -> Any:
  """Returns the backbone without `remat`: such blocks capture no outputs."""
  return backbone.clone(remat=False) if isinstance(backbone, ViT) else backbone


def _check_names(run: Run, names: Sequence[str]) -> None:
  size = run.image_size
  shape = (1, size, size, run.data.channels)
  blank = jax.ShapeDtypeStruct(shape, jnp.float32)
  there = jax.eval_shape(run.method.encode, run.params, run.model_state, blank)
  blocks = [key for key in run.params["backbone"] if re.fullmatch(_BLOCK, key)]
  blocks.sort(key=lambda key: [int(n) for n in re.findall(r"\d+", key)])
  for name in names:
    if name not in there and name not in blocks:
      raise ConfigError(
        f"--features has {name!r}; this network has"
        f" {', '.join([*there, *blocks])}."
      )


def centre(run: Run) -> Centre:
  """The centre view, for images of a set that is not in memory."""
  how = preprocessing(run)
  keys = ("size", "resize", "interpolation")
  return Centre(**{key: how[key] for key in keys})
