"""Names and layouts of parameters: ours, and those of timm and torchvision.

A ResNet's are torchvision's, a ViT's are timm's, a `/` for each dot and a `_`
before a number; see `models.resnet` and `models.transformer`. Matrices and
filters have their inputs before their outputs here, and after them in torch.
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
  """Leaves by path, `a/b/c`."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def unflat(like: Any, leaves: Mapping[str, Any]) -> Any:
  """The tree of the same structure with these leaves."""
  paths = jax.tree_util.tree_flatten_with_path(like)[0]
  key = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return jax.tree.unflatten(
    jax.tree.structure(like), [leaves[key(path)] for path, _ in paths]
  )


def torch_name(path: str) -> str:
  """`layer1_0/conv1/kernel` as `layer1.0.conv1.weight`."""
  name = re.sub(r"\b(blocks|layer\d)_(\d+)", r"\1.\2", path)
  name = name.replace("downsample_conv", "downsample.0")
  name = name.replace("downsample_bn", "downsample.1")
  *above, leaf = name.split("/")
  return ".".join([*above, _LEAVES.get(leaf, leaf)])


def decoder_name(path: str) -> str:
  """The same of MAE's decoder, as in its official code."""
  first, *rest = torch_name(path).split(".")
  if first == "blocks":
    first = "decoder_blocks"
  return ".".join([_DECODER.get(first, first), *rest])


def to_torch(path: str, x: np.ndarray, channels: int = 3) -> np.ndarray:
  """A parameter or statistic in torch's layout.

  Args:
    path: ours.
    x: in our layout.
    channels: of the images.

  Returns:
    The same numbers: filters [out, in, h, w], matrices [out, in].
  """
  if path.endswith("qkv/bias"):
    return x.reshape(-1)
  if not path.endswith("kernel"):
    return x
  if path.endswith("patch_embed/proj/kernel"):
    side = math.isqrt(x.shape[0] // channels)
    x = x.reshape(side, side, channels, -1)  # The pixels of a patch.
  elif path.endswith("qkv/kernel"):
    x = x.reshape(len(x), -1)
  elif path.endswith("attn/proj/kernel"):
    x = x.reshape(-1, x.shape[-1])
  return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T


def from_torch(path: str, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The inverse of `to_torch`, of which `shape` is the argument's."""
  if path.endswith("kernel"):
    x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
  return x.reshape(shape)


def torch_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape of `to_torch` of an array of this shape."""
  return to_torch(path, np.empty(shape, np.bool_)).shape
