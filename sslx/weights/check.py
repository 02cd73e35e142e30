"""A test image and its features, stored with weights and checked on load.

The check finds differences that names and shapes do not show: the number of
heads, the order of positions, epsilon, padding.
"""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

import jax
import numpy as np

from sslx.config import ConfigError
from sslx.data import operations

_TILE = 16  # rows and columns of the stored image; enlarged before use
_TOLERANCE = 1e-3  # relative to the largest feature


def make(
  backbone: Any,
  variables: dict[str, Any],
  size: int,
  mean: tuple[float, ...],
  std: tuple[float, ...],
) -> str:
  """Makes the pair of image and features, as JSON.

  Args:
    backbone: a Linen module.
    variables: variables of the backbone.
    size: side of the image, pixels.
    mean: mean of the normalisation.
    std: standard deviation of the normalisation.
  """
  channels = 3 if len(mean) == 1 else len(mean)
  shape = (_TILE, _TILE, channels)
  tile = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  pair = {
    "image": base64.b64encode(tile.tobytes()).decode(),
    "size": size,
    "mean": list(mean),
    "std": list(std),
  }
  features = _features(backbone, variables, pair)
  pair["features"] = {
    name: base64.b64encode(x.tobytes()).decode() for name, x in features.items()
  }
  return json.dumps(pair)


def verify(
  text: str, backbone: Any, variables: dict[str, Any], path: str
) -> str:
  """Checks that the loaded backbone gives the stored features.

  Args:
    text: result of `make`.
    backbone: a Linen module.
    variables: its variables, with the loaded weights.
    path: path of the weights, for the message.

  Returns:
    The result, as a message for the user.

  Raises:
    ConfigError: the features differ.
  """
  pair = json.loads(text)
  features = _features(backbone, variables, pair)
  worst = 0.0
  for name, encoded in pair["features"].items():
    wanted = np.frombuffer(base64.b64decode(encoded), np.float32)
    if name in features:
      largest = max(np.abs(wanted).max(), 1e-12)
      error = np.abs(features[name] - wanted).max() / largest
      worst = max(worst, float(error))
  if not worst <= _TOLERANCE:
    raise ConfigError(
      f"{path} holds an image and its features; with these weights the backbone"
      f" of this config gives others (error {worst:.1g} of the largest). It"
      " differs in something that shapes do not show: compare config.model."
      "backbone with the metadata of the file."
    )
  return f"the stored image gives the stored features (error {worst:.0e})"


def _features(
  backbone: Any, variables: dict[str, Any], pair: dict[str, Any]
) -> dict[str, np.ndarray]:
  """All pooled features of the pair's image, in float32: f32[d] by name."""
  tile = np.frombuffer(base64.b64decode(pair["image"]), np.uint8)
  nearest = np.arange(pair["size"]) * _TILE // pair["size"]
  image = tile.reshape(_TILE, _TILE, -1)[nearest][:, nearest]
  plain = {"dtype": "float32", "attention": "xla"}
  has = {key: x for key, x in plain.items() if hasattr(backbone, key)}
  exact = backbone.clone(**has)
  mean, std = (np.asarray(pair[key], np.float32) for key in ("mean", "std"))
  with jax.default_matmul_precision("highest"):
    features = _encode(variables, image[None], mean, std, backbone=exact)
  if "pooled" in features:  # A ViT's "final" repeats one of the others.
    del features["final"]
  return {name: np.asarray(x[0], np.float32) for name, x in features.items()}


@functools.partial(jax.jit, static_argnames="backbone")
def _encode(
  variables: Any, images: jax.Array, mean: Any, std: Any, *, backbone: Any
) -> dict[str, jax.Array]:
  """Encodes uint8[1, h, w, 3] to f32[1, d] by name."""
  images = operations.normalize(images, mean, std)
  return backbone.apply(variables, images, train=False, every=True)
