"""A run's backbone in torch's names and layout, and its metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from etils import epath

from sslx import config as config_lib
from sslx import metrics
from sslx.config.tree import plain
from sslx.models import patches, transformer
from sslx.models.resnet import ResNet
from sslx.models.vit import ViT
from sslx.recipes import names as recipe_names
from sslx.weights import check, names
from sslx.weights.run import Run


def torch_state(run: Run) -> dict[str, np.ndarray]:
  """All tensors of a backbone, by timm's or torchvision's names.

  Fixed positions, which sslx computes, are included as a tensor. As in timm,
  registers have positions; they are 0. The mask token is left out: it is for
  training alone, and timm has none.

  Raises:
    ConfigError: the backbone is neither a ResNet nor a ViT.
  """
  if not isinstance(run.backbone, ResNet | ViT):
    raise config_lib.ConfigError(
      f"the backbone of {run.workdir} is a {type(run.backbone).__name__}, for"
      " which no other library has names; use --to=npz."
    )
  state = {}
  for path, x in names.flat(run.variables).items():
    path = path.partition("/")[2]
    name = names.torch_name(path)
    state[name] = names.to_torch(path, x, run.data.channels)
    if name.endswith("running_var"):
      # torch counts batches here. Evaluation does not use the number.
      counter = name.replace("running_var", "num_batches_tracked")
      state[counter] = np.array(0, np.int64)
  if isinstance(run.backbone, ViT):
    state.pop("mask_token", None)
    state["pos_embed"] = _positions(run.backbone, state.get("pos_embed"))
  return state


def _positions(backbone: ViT, learned: np.ndarray | None) -> np.ndarray:
  """Positions of all tokens, f32[1, before + n, d]."""
  table = learned
  if table is None:
    table = fixed_positions(
      backbone.trained_grid,
      backbone.sizes[0],
      backbone.position_order,
      backbone.class_token,
    )
  first = int(backbone.class_token)
  blank = np.zeros((1, backbone.registers, table.shape[-1]), np.float32)
  return np.concatenate([table[:, :first], blank, table[:, first:]], axis=1)


def timm_arguments(backbone: ViT) -> dict[str, Any]:
  """Arguments of timm's `VisionTransformer` for a ViT.

  SwiGLU also needs `mlp_layer=timm.layers.SwiGLUPacked` and
  `act_layer=torch.nn.SiLU`.
  """
  width, depth, heads = backbone.sizes
  hidden = round(width * backbone.mlp_ratio)
  if backbone.mlp == "swiglu":
    hidden = 2 * transformer.swiglu_units(hidden)  # timm counts both halves.
  return {
    "img_size": backbone.image_size,
    "patch_size": backbone.patch_size,
    "embed_dim": width,
    "depth": depth,
    "num_heads": heads,
    "mlp_ratio": hidden / width,
    "class_token": backbone.class_token,
    "reg_tokens": backbone.registers,
    "init_values": backbone.layer_scale,
  }


def fixed_positions(
  side: int, width: int, first: str, class_token: bool
) -> np.ndarray:
  """Fixed positions of a square grid, f32[1, n, width].

  With a class token, n is side * side + 1 and the first row is zero. For
  `first` see `patches.sincos`.
  """
  table = patches.sincos(patches.scaled(side, side, side), width, first)
  blank = np.zeros((int(class_token), width), np.float32)
  return np.concatenate([blank, table])[None]


def described(run: Run) -> dict[str, str]:
  """The metadata of a file of weights: their origin, and a test image."""
  section = plain(run.config.model.backbone)
  knn = {}
  for row in metrics.read(epath.Path(run.workdir)):
    if row["step"] == run.step:
      knn |= metrics.evaluation(row)
  pair = check.make(
    run.backbone, run.variables, run.image_size, run.data.mean, run.data.std
  )
  return {
    "format": "pt",
    "method": run.config.model.method,
    "network": run.network,
    "recipe": _recipe(run),
    "config": config_lib.fingerprint(run.config),
    "step": str(run.step),
    "backbone": json.dumps(section),
    "image_size": str(run.image_size),
    "mean": json.dumps(run.data.mean),
    "std": json.dumps(run.data.std),
    "evaluation": json.dumps(knn),
    "check": pair,
  }


def preprocessing(run: Run) -> dict[str, Any]:
  """How to prepare images: as for evaluation, or whole if they are small.

  Returns:
    `size`: side of the square image that the network gets. `resize`: length of
    the short side before the centre crop. `interpolation`. `mean` and `std`: of
    images in [0, 1].
  """
  size, centre = run.image_size, run.data.centre
  resize = centre.resize if centre.size == size else size
  return {
    "size": size,
    "resize": resize,
    "interpolation": centre.interpolation,
    "mean": list(run.data.mean),
    "std": list(run.data.std),
  }


def _recipe(run: Run) -> str:
  """The recipe name for the config, or the method if it cannot be built."""
  try:
    return recipe_names.full_name(run.config)
  except (AttributeError, KeyError):
    return run.config.model.method
