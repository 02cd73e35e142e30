"""Reads configs that older versions of sslx stored with runs and weights.

These are the keys that were renamed since, so that an old run can still be
resumed, evaluated and exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What a ViT's key `style` stood for.
_STYLES = {
  "mae": {"weight_init": "xavier", "position_order": "column"},
  "mocov3": {"weight_init": "xavier_qkv", "position_order": "row"},
}


def config(stored: Mapping[str, Any]) -> dict[str, Any]:
  """A stored config of four sections, with the present keys."""
  renamed = {"model": _model, "schedule": _schedule}
  return {
    key: renamed[key](section) if key in renamed else section
    for key, section in stored.items()
  }


def backbone(section: Mapping[str, Any]) -> dict[str, Any]:
  """A stored section `model.backbone`, with the present keys."""
  section = dict(section)
  if section.get("name") == "vit" and section.get("style") in _STYLES:
    section |= _STYLES[section.pop("style")]
  return section


def _model(section: Mapping[str, Any]) -> dict[str, Any]:
  section = dict(section)
  if isinstance(section.get("backbone"), Mapping):
    section["backbone"] = backbone(section["backbone"])
  if "queue_start_epoch" in section:
    section["queue_start"] = float(section.pop("queue_start_epoch"))
  momentum = section.get("momentum")
  if section.get("method") == "mocov3" and isinstance(momentum, float):
    # It rose to 1 along half a cosine, without saying so.
    section["momentum"] = {"kind": "cosine", "start": momentum, "final": 1.0}
  return section


def _schedule(section: Mapping[str, Any]) -> dict[str, Any]:
  section = dict(section)
  if isinstance(section.get("lr"), Mapping):
    section["lr"] = _rate(section["lr"])
  if isinstance(section.get("optimizer"), Mapping):
    section["optimizer"] = _optimizer(section["optimizer"])
  return section


def _rate(section: Mapping[str, Any]) -> dict[str, Any]:
  section = dict(section)
  if "warmup_epochs" in section:
    section["warmup"] = section.pop("warmup_epochs")
  if "milestones" in section:  # Whole epochs.
    section["milestones"] = [
      float(x) if isinstance(x, int) else x for x in section["milestones"]
    ]
  return section


def _optimizer(section: Mapping[str, Any]) -> dict[str, Any]:
  """Makes one list of rules of five parallel ones."""
  optimizer = dict(section)
  steps = optimizer.pop("freeze_steps", None)
  freeze = True if steps is None else {"steps": steps}
  rules = [[x, {"freeze": freeze}] for x in optimizer.pop("freeze", ())]
  for old, key in (
    ("decay_multipliers", "weight_decay"),
    ("lr_multipliers", "lr"),
  ):
    rules += [[x, {key: factor}] for x, factor in optimizer.pop(old, ())]
  rules += [[x, {"exclude": True}] for x in optimizer.pop("exclude", ())]
  if rules:
    optimizer["rules"] = rules
  return optimizer
