"""Section `model`: translates MMSelfSup's algorithms to sslx's methods."""

from __future__ import annotations

from typing import Any

from sslx.config.errors import ConfigError
from sslx.config.schema import filled
from sslx.migrate import networks
from sslx.migrate.foreign import Node, rounded
from sslx.schedules import Schedule

_CLASSES = {
  "SimCLR": "simclr",
  "MoCo": "mocov2",
  "SwAV": "swav",
  "RelativeLoc": "relative_loc",
  "MoCoV3": "mocov3",
  "BYOL": "byol",
  "SimSiam": "simsiam",
  "MAE": "mae",
  "BarlowTwins": "barlow_twins",
}
# Initialisations that sslx has too.
_MAE_INIT = (
  {"type": "Xavier", "distribution": "uniform", "layer": "Linear"},
  {"type": "Constant", "layer": "LayerNorm", "val": 1.0, "bias": 0.0},
)
_PAIRS_INIT = (
  {"type": "Normal", "std": 0.005, "layer": "Linear"},
  {"type": "Constant", "val": 1, "layer": ("_BatchNorm", "GroupNorm")},
)
_LINEAR_INIT = {
  "type": "Kaiming",
  "distribution": "uniform",
  "layer": ("Linear",),
}
_DRAWN = "sslx draws them as the paper does"


def method(model: Node) -> str:
  """The name of sslx's method for the algorithm.

  Raises:
    ConfigError: sslx has no method for that class.
  """
  kind = model.kind()
  if kind in _CLASSES:
    return _CLASSES[kind]
  told = f"is {kind!r}" if kind else "is missing"
  raise ConfigError(
    f"{model.at('type')} {told}; there are recipes of {', '.join(_CLASSES)}."
  )


def section(
  model: Node, counts: tuple[int, ...], hooks: list[Node]
) -> dict[str, Any]:
  """Section `model`, without the keys that depend on the number of GPUs.

  Args:
    model: `model` of the foreign config.
    counts: number of views of each kind.
    hooks: its `custom_hooks`, one of which may hold SwAV's queue.
  """
  name, backbone = method(model), networks.backbone(model.group("backbone"))
  found = {"method": name, "backbone": backbone}
  of_vit = backbone["name"] == "vit"
  neck, head = model.group("neck"), model.group("head")
  if name == "mae":
    return found | _mae(model, backbone["patch_size"])
  if of_vit:
    backbone["features"] = "cls"  # The projector's input.
  if name == "relative_loc":
    return found | _relative_loc(neck, head)
  projector = networks.mlp(neck, of_vit=of_vit, pooled=not of_vit)
  if projector:
    found["projector"] = projector
  if name == "barlow_twins":
    return found | _barlow_twins(neck, head, projector)
  if name == "swav":
    return found | _swav(head, counts, hooks)
  if name == "mocov3":
    return found | _mocov3(model, head)
  if name == "byol":
    return found | _latent(head) | _rising(model, 0.996)
  if name == "simsiam":
    return found | _latent(head)
  head.is_a("ContrastiveHead")
  _cross_entropy(head)
  found["temperature"] = head.take("temperature", float, 0.1)
  if name == "mocov2":
    model.idle("feat_dim")  # Other keys determine it.
    found |= {
      "momentum": _momentum(model, "momentum", 0.999),
      "queue_size": model.take("queue_len", int, 65536),
      "symmetric": False,
      "shuffle": True,
    }
  return found


def _mocov3(model: Node, head: Node) -> dict[str, Any]:
  head.is_a("MoCoV3Head")
  temperature = head.take("temperature", float, 1.0)
  _cross_entropy(head, 2 * temperature)
  return {
    **_predictor(head),
    "temperature": temperature,
    **_rising(model, 0.99),
  }


def _barlow_twins(
  neck: Node, head: Node, projector: dict[str, Any] | None
) -> dict[str, Any]:
  # A BatchNorm follows each layer and removes the scale of its weights.
  neck.fixed("init_cfg", None, _LINEAR_INIT, why=_DRAWN)
  head.is_a("LatentCrossCorrelationHead")
  head.note("type", "sslx normalises over the whole batch, not over a GPU's")
  head.idle("in_channels")  # The projector determines it.
  loss = head.group("loss")
  loss.is_a("CrossCorrelationLoss")
  found = {"redundancy_weight": loss.take("lambd", float, 0.0051)}
  if projector:
    # MMSelfSup has that BatchNorm in the head.
    found["projector"] = projector | {"last_norm": "plain"}
  return found


def _latent(head: Node) -> dict[str, Any]:
  head.is_a("LatentPredictHead")
  loss = head.group("loss")
  loss.is_a("CosineSimilarityLoss")
  loss.idle("shift_factor")  # A constant has no gradient.
  loss.fixed("scale_factor", 1.0)
  return _predictor(head)


def _predictor(head: Node) -> dict[str, Any]:
  found = networks.mlp(head.group("predictor"), of_vit=False, pooled=False)
  return {"predictor": found} if found else {}


def _rising(model: Node, default: float) -> dict[str, Any]:
  """A momentum that rises to 1 along half a cosine."""
  start = _momentum(model, "base_momentum", default)
  return {"momentum": filled(Schedule, {"start": start, "final": 1.0})}


def _swav(
  head: Node, counts: tuple[int, ...], hooks: list[Node]
) -> dict[str, Any]:
  head.is_a("SwAVHead")
  loss = head.group("loss")
  loss.is_a("SwAVLoss")
  loss.idle("feat_dim")  # Other keys determine it.
  loss.fixed("num_crops", (2,), counts, why=f"the pipeline makes {counts}")
  loss.fixed("crops_for_assign", (0, 1))
  found = {
    "prototypes": loss.take("num_prototypes", int, 3000),
    "temperature": loss.take("temperature", float, 0.1),
    "epsilon": loss.take("epsilon", float, 0.05),
    "sinkhorn_iterations": loss.take("sinkhorn_iterations", int, 3),
    "queue_size": 0,
  }
  for hook in hooks:
    if hook.kind() == "SwAVHook":
      hook.fixed("crops_for_assign", (0, 1))
      # The hook's schedule, and sizes that other keys determine.
      hook.idle("priority", "interval", "batch_size", "feat_dim")
      found["queue_size"] = hook.take("queue_length", int, 0)
      found["queue_start"] = hook.take("epoch_queue_starts", float, 15.0)
  return found


def _relative_loc(neck: Node, head: Node) -> dict[str, Any]:
  neck.is_a("RelativeLocNeck")
  neck.fixed("with_avg_pool", True)
  head.is_a("ClsHead")
  _cross_entropy(head)
  head.fixed("with_avg_pool", False)
  head.fixed("init_cfg", None, _PAIRS_INIT, why=_DRAWN)
  for node in (neck, head):
    node.idle("in_channels")
  return {
    "head": {
      "hidden": neck.take("out_channels", int),
      "classes": head.take("num_classes", int),
    },
    "dropout": 0.5,
  }


def _mae(model: Node, patch_size: int) -> dict[str, Any]:
  neck, head = model.group("neck"), model.group("head")
  neck.is_a("MAEPretrainDecoder")
  head.is_a("MAEPretrainHead")
  head.group("loss").is_a("MAEReconstructionLoss")
  model.fixed("init_cfg", None, _MAE_INIT, why=_DRAWN)
  neck.fixed("in_chans", 3)
  neck.fixed("predict_feature_dim", None)
  neck.idle("embed_dim", "num_patches")  # The backbone determines them.
  for node in (neck, head):
    node.fixed("patch_size", 16, patch_size, why="as in the backbone")
  return {
    "decoder": {
      "width": neck.take("decoder_embed_dim", int, 512),
      "depth": neck.take("decoder_depth", int, 8),
      "heads": neck.take("decoder_num_heads", int, 16),
      "mlp_ratio": neck.take("mlp_ratio", float, 4.0),
    },
    "mask_ratio": model.group("backbone").take("mask_ratio", float, 0.75),
    "norm_pix": head.take("norm_pix", bool, False),
  }


def _cross_entropy(head: Node, weight: float = 1.0) -> None:
  loss = head.group("loss")
  loss.is_a("CrossEntropyLoss")
  loss.fixed("loss_weight", 1.0, weight)


def _momentum(model: Node, key: str, default: float) -> float:
  """The momentum as the weight of the old parameters.

  MMEngine's averages give the weight of the new parameters instead. A value
  below 0.5 is taken to be that.
  """
  momentum = model.take(key, float, default)
  return momentum if momentum >= 0.5 else rounded(1 - momentum)
