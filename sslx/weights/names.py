"""Converts parameter names and layouts between sslx and torch.

A ResNet has torchvision's names and a ViT timm's, but sslx writes `/` for each
dot and `_` before a number; see `models.resnet` and `models.transformer`. In
sslx, matrices and filters have their input dimension before the output
dimension; in torch the output dimension comes first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
_DECODER = {
  "embed": "decoder_embed",
  "norm": "decoder_norm",
  "pred": "decoder_pred",
}


def flat(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by path, `a/b/c`."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def unflat(like: Any, leaves: Mapping[str, Any]) -> Any:
  """A tree with the structure of `like` and these leaves, given by path."""
  paths = jax.tree_util.tree_flatten_with_path(like)[0]
  key = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return jax.tree.unflatten(
    jax.tree.structure(like), [leaves[key(path)] for path, _ in paths]
  )


def torch_name(path: str) -> str:
  """Converts `layer1_0/conv1/kernel` to `layer1.0.conv1.weight`."""
  name = re.sub(r"\b(blocks|layer\d)_(\d+)", r"\1.\2", path)
  name = name.replace("downsample_conv", "downsample.0")
  name = name.replace("downsample_bn", "downsample.1")
  name = name.replace("mlp/w12/", "mlp/fc1/").replace("mlp/w3/", "mlp/fc2/")
  *above, leaf = name.split("/")
  return ".".join([*above, _LEAVES.get(leaf, leaf)])


def decoder_name(path: str) -> str:
  """Converts a name in MAE's decoder to that of the official code."""
  first, *rest = torch_name(path).split(".")
  if first == "blocks":
    first = "decoder_blocks"
  return ".".join([_DECODER.get(first, first), *rest])


def to_torch(path: str, x: np.ndarray, channels: int = 3) -> np.ndarray:
  """Converts a parameter or statistic to torch's layout.

  Args:
    path: its path in sslx.
    x: the array in sslx's layout.
    channels: number of channels of the images.

  Returns:
    The array in torch's layout: filters [out, in, h, w], matrices [out, in].
  """
  if path.endswith(("qkv/bias", "w12/bias")):
    return x.reshape(-1)
  if not path.endswith("kernel"):
    return x
  if path.endswith("patch_embed/proj/kernel"):
    side = math.isqrt(x.shape[0] // channels)
    x = x.reshape(side, side, channels, -1)  # The pixels of a patch.
  elif path.endswith(("qkv/kernel", "w12/kernel")):
    x = x.reshape(len(x), -1)
  elif path.endswith("attn/proj/kernel"):
    x = x.reshape(-1, x.shape[-1])
  return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T


def from_torch(path: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Converts from torch's layout to sslx's; the inverse of `to_torch`.

  Args:
    path: its path in sslx.
    x: the array in torch's layout.
    shape: shape in sslx's layout.
  """
  if path.endswith("kernel"):
    x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
  return x.reshape(shape)


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape in torch's layout of an array of this shape in sslx's."""
  return to_torch(path, np.empty(shape, np.bool_)).shape
