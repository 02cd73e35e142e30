"""Translates MMSelfSup's backbones, necks and norms to sslx's networks."""

from __future__ import annotations

from typing import Any

from sslx.config.errors import ConfigError
from sslx.migrate.foreign import Node, rounded
from sslx.models.vit import VARIANTS

# Classes with BatchNorm, and their default `norm_cfg`.
_NORMS = {
  "ResNet": "BN",
  "NonLinearNeck": "SyncBN",
  "SwAVNeck": "SyncBN",
  "RelativeLocNeck": "BN1d",
}
_NECKS = ("LinearNeck", "MoCoV2Neck", "SwAVNeck", "NonLinearNeck")
_VITS = {
  "MAEViT": {"weight_init": "xavier", "position_order": "column"},
  "MoCoV3ViT": {"weight_init": "xavier_qkv", "position_order": "row"},
}
# (width, depth, heads, MLP width) by MMPreTrain's names of ViTs. These differ
# from the papers' names: its "small" is wide and shallow.
_ARCHITECTURES = {
  ("s", "small"): (768, 8, 8, 2304),
  ("b", "base"): (768, 12, 12, 3072),
  ("l", "large"): (1024, 24, 16, 4096),
  ("h", "huge"): (1280, 32, 16, 5120),
  ("deit-t", "deit-tiny"): (192, 12, 3, 768),
  ("deit-s", "deit-small"): (384, 12, 6, 1536),
  ("deit-b", "deit-base"): (768, 12, 12, 3072),
  ("mocov3-s", "mocov3-small"): (384, 12, 12, 1536),
}


def backbone(node: Node) -> dict[str, Any]:
  """Section `model.backbone`.

  Raises:
    ConfigError: sslx has no such backbone.
  """
  kind = node.kind()
  if kind == "ResNet":
    return _resnet(node)
  if kind in _VITS:
    return _vit(node, kind)
  known = ", ".join(["ResNet", *_VITS])
  raise ConfigError(
    f"{node.at('type')} is {kind!r}; sslx has the backbones {known}."
  )


def _resnet(node: Node) -> dict[str, Any]:
  base = node.take("base_channels", int, 64)
  node.fixed("stem_channels", 64, base)
  for key, value in {
    "in_channels": 3,
    "num_stages": 4,
    "strides": (1, 2, 2, 2),
    "dilations": (1, 1, 1, 1),
    "out_indices": (4,),
    "style": "pytorch",
    "deep_stem": False,
    "avg_down": False,
    "frozen_stages": -1,
    "norm_eval": False,
    "conv_cfg": None,
    "drop_path_rate": 0.0,
  }.items():
    node.fixed(key, value)
  node.idle("with_cp")  # Changes only memory use.
  return {
    "name": "resnet",
    "depth": node.take("depth", int),
    "width": base / 64,
    "stem": "imagenet",
    "zero_init_residual": node.take("zero_init_residual", bool, False),
  }


def _vit(node: Node, kind: str) -> dict[str, Any]:
  for key, value in {
    "in_channels": 3,
    "out_indices": -1,
    "drop_rate": 0,
    "qkv_bias": True,
    "final_norm": True,
    "with_cls_token": True,
    "frozen_stages": -1,
    "norm_eval": False,
  }.items():
    node.fixed(key, value)
  node.idle("interpolate_mode")  # Positions are computed for the size in use.
  size = node.take("img_size", int | tuple[int, int], 224)
  if isinstance(size, tuple):
    node.fixed("img_size", size, size[:1] * 2, why="sslx's images are square")
    size = size[0]
  frozen = kind == "MoCoV3ViT" and node.take("stop_grad_conv1", bool, False)
  return {
    "name": "vit",
    **_sizes(node),
    "patch_size": node.take("patch_size", int, 16),
    "image_size": size,
    **_VITS[kind],
    "positions": "sincos",
    "class_token": True,
    "registers": 0,
    "mask_token": False,
    "mlp": "gelu",
    "drop_path_schedule": "linear",
    "layer_scale": None,
    "pool_norm": False,
    "frozen_patches": frozen,
    "drop_path": node.take("drop_path_rate", float, 0.0),
  }


def _sizes(node: Node) -> dict[str, Any]:
  """The variant of the same width, and the sizes that differ from it.

  If no variant has this width, the variant is "base".
  """
  if node.is_group("arch"):
    own = node.group("arch")
    keys = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")
    sizes = tuple(own.take(key, int) for key in keys)
  else:
    arch = node.take("arch", str, "base")
    known = {x: size for both, size in _ARCHITECTURES.items() for x in both}
    if arch not in known:
      raise ConfigError(
        f"{node.at('arch')} is {arch!r}; known are {', '.join(known)}."
      )
    sizes = known[arch]
  width, mlp = sizes[0], sizes[3]
  variant = next((v for v, s in VARIANTS.items() if s[0] == width), "base")
  usual = zip(VARIANTS[variant], sizes, strict=False)
  given = [None if a == b else b for a, b in usual]
  names = ("width", "depth", "heads")
  return {
    "variant": variant,
    **dict(zip(names, given, strict=True)),
    "mlp_ratio": rounded(mlp / max(width, 1)),
  }


def mlp(node: Node, *, of_vit: bool, pooled: bool) -> dict[str, Any] | None:
  """A projector or predictor.

  Args:
    node: the neck.
    of_vit: whether its input comes from a ViT; it has to pick the class token.
    pooled: whether its input is feature maps; it has to average them.

  Returns:
    None if sslx has no such neck; the log notes it.
  """
  kind = node.kind()
  if kind not in _NECKS:
    node.note_all(f"sslx has {', '.join(_NECKS)}")
    return None
  out = node.take("out_channels", int)
  hidden = () if kind == "LinearNeck" else (node.take("hid_channels", int),)
  node.idle("in_channels")  # The backbone determines it.
  node.fixed("with_avg_pool", True, pooled)
  if kind == "SwAVNeck":
    node.fixed("with_l2norm", True)
    hidden = tuple(filter(None, hidden))  # 0 means no hidden layer.
  made = {"norm": kind == "SwAVNeck", "use_bias": True, "last_norm": "none"}
  if kind == "NonLinearNeck":
    node.fixed("vit_backbone", False, of_vit)
    node.idle("with_bias")  # The BatchNorm that follows subtracts it.
    layers = node.take("num_layers", int, 2)
    if not 2 <= layers <= 100:
      raise ConfigError(
        f"{node.at('num_layers')} is {layers}; sslx needs 2 to 100."
      )
    hidden *= layers - 1
    last = node.take("with_last_bn", bool, True)
    affine = node.take("with_last_bn_affine", bool, True)
    made = {
      "norm": True,
      "use_bias": node.take("with_last_bias", bool, False),
      "last_norm": ("affine" if affine else "plain") if last else "none",
    }
    if not last:
      node.idle("with_last_bn_affine")
  return {"dims": (*hidden, out), **made}


def norm_groups(
  nodes: list[Node], gpus: int | None, accumulate: int
) -> dict[str, int]:
  """Key `model.norm_groups`, or {} if it cannot be determined.

  Args:
    nodes: the networks.
    gpus: number of GPUs, or None if unknown.
    accumulate: micro-batches per optimiser step, each with its own statistics.
  """
  found: list[tuple[Node, str]] = []
  for node in nodes:
    norm = node.group("norm_cfg")
    if node.kind() not in _NORMS:
      continue
    kind = norm.kind(_NORMS[node.kind()])
    norm.fixed("requires_grad", True)
    if kind in ("BN", "BN1d", "BN2d", "SyncBN"):
      found.append((norm, "SyncBN" if kind == "SyncBN" else "BN"))
    else:
      norm.note("type", "sslx has BN and SyncBN")
  if not found:
    return {"norm_groups": 1}
  (first, kind), *others = found
  for norm, other in others:
    if other != kind and gpus != 1:
      norm.note("type", f"{kind}, as before, for all of a model", other)
  if kind == "SyncBN":
    return {"norm_groups": accumulate}
  if gpus is None:
    first.note("type", "the number of GPUs is not known", kind)
    return {}
  return {"norm_groups": gpus * accumulate}
