"""Section `schedule`: translates MMEngine's optimizers and schedulers."""

from __future__ import annotations

from typing import Any

from sslx.config.errors import ConfigError
from sslx.config.schema import filled
from sslx.migrate import parameters
from sslx.migrate.foreign import Node, rounded
from sslx.optim import Rule


def section(
  config: Node, model: dict[str, Any], accumulate: int, scale: float
) -> dict[str, Any]:
  """Section `schedule`; `optimizer.lr` is the peak rate for the whole batch.

  Args:
    config: the foreign config.
    model: section `model`, as translated.
    accumulate: micro-batches per optimiser step.
    scale: factor of the learning rate.
  """
  loop = config.group("train_cfg")
  if "max_epochs" not in loop:
    raise ConfigError(f"{loop.at('max_epochs')} is missing; sslx needs it.")
  loop.is_a("EpochBasedTrainLoop", default="EpochBasedTrainLoop")
  loop.fixed("by_epoch", True)
  epochs = loop.take("max_epochs", int)
  wrapper = config.group("optim_wrapper")
  optimizer = _optimizer(wrapper.group("optimizer"))
  optimizer["lr"] *= scale
  rules = parameters.rules(
    wrapper.group("paramwise_cfg"),
    model,
    optimizer["name"],
    fixes=_fixes(config.groups("custom_hooks"), optimizer["lr"]),
  )
  rules["rules"] += _freezing(config.groups("custom_hooks"))
  rules["rules"] = filled(tuple[tuple[str, Rule], ...], rules["rules"])
  rate = _rate(config, epochs, optimizer["lr"])
  return {
    "epochs": epochs,
    "steps": None,
    "images": None,
    "optimizer": optimizer | rules | _clipping(wrapper),
    "lr": rate,
    "accumulate": accumulate,
  }


def precision(wrapper: Node) -> str:
  """Key `model.dtype`."""
  wrapper.is_a("OptimWrapper", "AmpOptimWrapper", default="OptimWrapper")
  wrapper.idle("loss_scale")  # bfloat16 has the range of float32.
  if wrapper.kind() != "AmpOptimWrapper":
    return "float32"
  wrapper.fixed("dtype", "bfloat16", why="sslx computes in bfloat16")
  return "bfloat16"


def _optimizer(node: Node) -> dict[str, Any]:
  """Name and settings of the optimiser.

  Raises:
    ConfigError: sslx has no such optimiser, or the rate is not above 0.
  """
  kind = node.kind()
  lr = node.take("lr", float)
  if lr <= 0:
    raise ConfigError(f"{node.at('lr')} is {lr}; sslx needs a rate above 0.")
  found: dict[str, Any] = {"lr": lr, "layer_decay": 1.0}
  if kind == "AdamW":
    node.fixed("amsgrad", False)
    b1, b2 = node.take("betas", tuple[float, float], (0.9, 0.999))
    return found | {
      "name": "adamw",
      "b1": b1,
      "b2": b2,
      "eps": node.take("eps", float, 1e-8),
      "weight_decay": node.take("weight_decay", float, 0.01),
    }
  if kind not in ("SGD", "LARS"):
    raise ConfigError(
      f"{node.at('type')} is {kind!r}; sslx has SGD, LARS and AdamW."
    )
  node.fixed("dampening", 0)
  found |= {
    "name": kind.lower(),
    "momentum": node.take("momentum", float, 0.0),
    "nesterov": node.take("nesterov", bool, False),
    "weight_decay": node.take("weight_decay", float, 0.0),
  }
  if kind == "LARS":
    node.note("type", "sslx's ratio has |g + w p|, not |g| + w |p|")
    node.fixed("eps", 1e-8)
    found["trust_coefficient"] = node.take("eta", float, 0.001)
    found["trust_clip"] = False
  return found


def _clipping(wrapper: Node) -> dict[str, Any]:
  clip = wrapper.group("clip_grad")
  if "max_norm" not in clip:
    return {"clip_norm": None}
  clip.fixed("type", "norm")
  clip.fixed("norm_type", 2)
  clip.idle("error_if_nonfinite")  # sslx stops at non-finite values anyway.
  return {"clip_norm": clip.take("max_norm", float)}


def _freezing(hooks: list[Node]) -> tuple[tuple[str, dict[str, Any]], ...]:
  """Rules for the parameters that a hook freezes."""
  for hook in hooks:
    frozen = hook.group("frozen_layers_cfg")
    if hook.kind() == "SwAVHook" and "prototypes" in frozen:
      steps = frozen.take("prototypes", int)
      return (("prototypes", {"freeze": {"steps": steps}}),)
  return ()


def _fixes(hooks: list[Node], peak: float) -> bool:
  """Whether a hook keeps some learning rates at their first value."""
  for hook in hooks:
    if hook.kind() == "SimSiamHook":
      hook.idle("priority", "adjust_by_epoch")
      hook.fixed("lr", peak, why=f"{peak:g} in sslx, the first of all others")
      return hook.take("fix_pred_lr", bool)
  return False


def _rate(config: Node, epochs: int, peak: float) -> dict[str, Any]:
  """Section `schedule.lr`: a warm-up, and one scheduler for the rest."""
  found: dict[str, Any] = {"kind": "constant", "warmup": 0.0}
  ramps, others = [], []
  for node in config.groups("param_scheduler"):
    if not node.take("by_epoch", bool, True):
      node.note_all("sslx counts in epochs")
    else:
      (ramps if node.kind() == "LinearLR" else others).append(node)
  for node in ramps[:1]:
    node.fixed("begin", 0)
    node.fixed("end_factor", 1.0)
    node.fixed("convert_to_iter_based", False, True, why=_BY_STEP)
    found["warmup"] = node.take("end", float)
    found["warmup_from"] = node.take("start_factor", float, 1 / 3)
  for node in (*ramps[1:], *others[1:]):
    node.note_all("sslx has one warm-up, and one scheduler after it")
  for node in others[:1]:
    node.fixed("end", epochs, why="until the end of training in sslx")
    if node.kind() == "CosineAnnealingLR":
      begin = found["warmup"]
      node.fixed("begin", 0, begin, why=f"at {begin:g} in sslx, after warm-up")
      whole = epochs - node.take("begin", float, 0)
      node.fixed("T_max", whole, epochs - begin, why=_WHOLE)
      steps = node.take("convert_to_iter_based", bool, False)
      floor = node.take("eta_min", float, 0.0) / peak
      floor = node.take("eta_min_ratio", float, floor)
      found |= {
        "kind": "cosine",
        "final": rounded(floor),
        "per": "step" if steps else "epoch",
      }
    elif node.kind() == "MultiStepLR":
      node.fixed("begin", 0)
      node.idle("convert_to_iter_based")  # Milestones are whole epochs.
      found |= {
        "kind": "step",
        "milestones": node.take("milestones", tuple[float, ...]),
        "gamma": node.take("gamma", float, 0.1),
      }
    else:
      node.note_all("sslx has CosineAnnealingLR and MultiStepLR")
  return found


_BY_STEP = "sslx warms up step by step"
_WHOLE = "half a cosine until the end of training in sslx"
