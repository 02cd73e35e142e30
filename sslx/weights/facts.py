"""Checks properties of a ViT that tensor shapes do not show.

Weights with another number of heads, another order of positions or another
epsilon load without an error but give wrong features. These properties are read
from the file, inferred, or asked of the user.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sslx import models, past
from sslx.config import ConfigError, build
from sslx.models import patches
from sslx.models.vit import VARIANTS, ViT
from sslx.weights.files import File
from sslx.weights.layouts import Found

_EPS = 1e-6  # epsilon of every LayerNorm in sslx
_TOLERANCE = 2e-3  # absolute error of a position; covers float16
_HEADS_64 = (192, 384, 768, 1024)  # widths whose heads are usually 64 wide


def check_vit(
  backbone: ViT,
  file: File,
  found: Found,
  heads: int | None,
  eps: float | None,
) -> list[str]:
  """Checks a ViT from another library against the one of this config.

  Args:
    backbone: backbone of the config.
    file: the file of weights.
    found: the weights in it.
    heads: number of attention heads, if the user gave it.
    eps: epsilon of LayerNorm, if the user gave it.

  Returns:
    Messages for the user about properties that were inferred.

  Raises:
    ConfigError: a property differs, or is unknown and the user did not give it.
  """
  _check_config(file, eps)
  weight = found.tensors.get("patch_embed.proj.weight")
  if weight is not None and len(weight.shape) == 2:
    raise ConfigError(
      f"{file.path}: patch_embed.proj.weight is a matrix {tuple(weight.shape)},"
      " which does not say in which order it takes the numbers of a patch. Save"
      " it as the filter of a convolution, (width, 3, patch, patch)."
    )
  return _check_heads(backbone, file, found, heads)


def _check_config(file: File, eps: float | None) -> None:
  """Checks activation and epsilon, which only transformers' files state."""
  described = file.config or {}
  kind = described.get("model_type")
  if kind is None:
    return
  act = described.get("hidden_act", "gelu")
  if act != "gelu":
    raise ConfigError(
      f"{file.path}: config.json says hidden_act={act!r}; a ViT here has the"
      " exact 'gelu'."
    )
  said = described.get("layer_norm_eps", 1e-6 if kind == "dinov2" else 1e-12)
  if (said if eps is None else eps) != _EPS:
    raise ConfigError(
      f"{file.path}: config.json says layer_norm_eps={said:g}; a ViT here has"
      f" {_EPS:g}, which gives other features. If the weights were trained with"
      f" {_EPS:g}, as those of MAE and DINO were whatever config.json says, set"
      f" config.runtime.init_from.eps={_EPS:g}."
    )


def _check_heads(
  backbone: ViT, file: File, found: Found, said: int | None
) -> list[str]:
  """Checks the number of heads; returns messages about what was assumed."""
  width, _, here = backbone.sizes
  notes = []
  known = said or _described_heads(file.config or {})
  if known is None and found.layout.heads:
    known = found.layout.heads.get(width)
  if known is None:
    known = _customary_heads(found, width)
    if known is None:
      raise ConfigError(
        f"{file.path} does not say how many heads its attention has, and no"
        " shape does: most networks have heads 64 wide, but the small ViTs of"
        " MoCo v3 and solo-learn have 12 narrower ones. Set"
        " config.runtime.init_from.heads."
      )
    notes.append(
      f"{known} heads of {width // known} are taken for granted: the file does"
      " not say; config.runtime.init_from.heads does"
    )
  if known != here:
    raise ConfigError(
      f"{file.path} has an attention of {known} heads; config.model.backbone"
      f" has {here}, which fit the same shapes but give other features. Set"
      f" config.model.backbone.heads={known}; or, if the file has {here},"
      f" config.runtime.init_from.heads={here}."
    )
  return notes


def _described_heads(described: Mapping[str, Any]) -> int | None:
  """Number of heads by the `config.json` of transformers or timm, or None."""
  if "num_attention_heads" in described:
    return described["num_attention_heads"]
  arguments = described.get("model_args") or {}
  if "num_heads" in arguments:
    return arguments["num_heads"]
  words = str(described.get("architecture", "")).split("_")
  if words[0] in ("vit", "deit") and len(words) > 1 and words[1] in VARIANTS:
    return VARIANTS[words[1]][2]
  return None


def _customary_heads(found: Found, width: int) -> int | None:
  """The usual number of heads for a width.

  None if there is no usual number, or if MoCo v3's may apply instead.
  """
  positions = found.tensors.get("pos_embed")
  order = None if positions is None else order_of(np.asarray(positions)[0])[0]
  if width in (192, 384) and order == "row":  # MoCo v3's.
    return None
  if width in _HEADS_64:
    return width // 64
  return 16 if width == 1280 else None


def order_of(positions: np.ndarray) -> tuple[str | None, bool, int]:
  """Finds the order of sines and cosines in position embeddings.

  Args:
    positions: [n, d], or [1 + n, d] if the first row is the class token's.

  Returns:
    "column" or "row", whichever comes first, or None for learned positions;
    whether the first row is the class token's; and the number of rows of the
    square grid.

  Raises:
    ConfigError: the grid is not square.
  """
  count, width = positions.shape
  first = math.isqrt(count) ** 2 != count
  side = math.isqrt(count - first)
  if side**2 != count - first:
    raise ConfigError(
      f"pos_embed has {count} positions, which do not form a square grid, with"
      " or without a class token; a ViT here has a square grid."
    )
  grid = patches.scaled(side, side, side)
  blank = np.zeros((int(first), width))
  for order in ("column", "row") if width % 4 == 0 else ():
    wanted = np.concatenate([blank, patches.sincos(grid, width, order)])
    if np.abs(positions - wanted).max() < _TOLERANCE:
      return order, first, side
  return None, first, side


def drop_register_positions(backbone: ViT, tensors: dict[str, Any]) -> None:
  """Removes positions of registers, which are 0, from a file; in place."""
  first, count = int(backbone.class_token), backbone.registers
  if "pos_embed" not in tensors or not count:
    return
  table = np.asarray(tensors["pos_embed"])
  patches_left = table.shape[1] - first - count
  blank = not np.any(table[:, first : first + count])
  if blank and math.isqrt(max(patches_left, 0)) ** 2 == patches_left:
    tensors["pos_embed"] = np.delete(table, slice(first, first + count), 1)


def take_positions(
  backbone: ViT, tensors: dict[str, Any], path: str
) -> list[str]:
  """Adapts the positions of a file to a ViT, in place.

  If the ViT's positions are fixed, the file's must equal them and are removed.
  If they are learned, the file's are resized to the ViT's grid. A class token
  without a position in the file, as in timm's `no_embed_class`, gets 0.

  Args:
    backbone: backbone of the config.
    tensors: tensors of the file by name; changed in place.
    path: path of the file, for messages.

  Returns:
    Messages for the user.

  Raises:
    ConfigError: the positions do not fit.
  """
  if "pos_embed" not in tensors:
    return []
  positions = np.asarray(tensors["pos_embed"], np.float32)[0]
  order, first, side = order_of(positions)
  size = side * backbone.patch_size
  if backbone.positions == "sincos":
    wrong = {}
    if order is None:
      wrong["positions"] = ("learned", "sincos")
    elif order != backbone.position_order:
      wrong["position_order"] = (order, backbone.position_order)
    if size != backbone.image_size:
      wrong["image_size"] = (size, backbone.image_size)
    _refuse(wrong, path)
    del tensors["pos_embed"]
    return [f"positions are sines and cosines, the {order}'s first, as here"]
  if backbone.class_token and not first:
    positions = np.concatenate([np.zeros_like(positions[:1]), positions])
    tensors["pos_embed"] = positions[None]
  here = backbone.trained_grid
  if side == here:
    return []
  table, note = resized(positions, here)
  tensors["pos_embed"] = table[None]
  return [note]


def resized(positions: np.ndarray, side: int) -> tuple[np.ndarray, str]:
  """Resizes learned positions to another grid.

  Args:
    positions: f32[n, d] for a square grid, or f32[1 + n, d] if the first row is
      the class token's, which is kept.
    side: number of rows of the new square grid.

  Returns:
    Positions for side * side patches, and a message for the user that names the
    rule.
  """
  _, first, there = order_of(positions)
  before, rest = positions[: int(first)], positions[int(first) :]
  rest = patches.resized(rest, (there, there), (side, side))
  return np.concatenate([before, np.asarray(rest)]), (
    f"pos_embed resized from {there} x {there} to {side} x {side}: bicubic,"
    " antialiased, as timm does; DINOv2's own rule adds an offset of 0.1"
  )


def check_own(
  section: str | Mapping[str, Any], backbone: Any, path: str
) -> None:
  """Checks a backbone that sslx wrote against the one of this config.

  Args:
    section: `model.backbone` of the run or file, as JSON text or parsed.
    backbone: backbone of the config.
    path: path of the run or file, for messages.

  Raises:
    ConfigError: they differ in something that shapes do not show.
  """
  if isinstance(section, str):
    section = json.loads(section)
  if not isinstance(backbone, ViT) or section.get("name") != "vit":
    return
  other = build(models.BACKBONE, past.backbone(section), "model.backbone")
  wrong = {}
  if (
    other.sizes[0] == backbone.sizes[0] and other.sizes[2] != backbone.sizes[2]
  ):
    wrong["heads"] = (other.sizes[2], backbone.sizes[2])
  if other.positions != backbone.positions:
    wrong["positions"] = (other.positions, backbone.positions)
  elif other.positions == "sincos":
    for key in ("position_order", "image_size"):
      if getattr(other, key) != getattr(backbone, key):
        wrong[key] = (getattr(other, key), getattr(backbone, key))
  _refuse(wrong, path)


def _refuse(wrong: Mapping[str, tuple[Any, Any]], path: str) -> None:
  if wrong:
    differences = ", ".join(
      f"{key} {there!r} there and {here!r} here"
      for key, (there, here) in wrong.items()
    )
    fixes = " ".join(
      f"--config.model.backbone.{key}={there}"
      for key, (there, _) in wrong.items()
    )
    raise ConfigError(
      f"the backbone of {path} differs from config.model.backbone in what its"
      f" shapes do not show, and would give other features: {differences}."
      f" Set {fixes}."
    )
