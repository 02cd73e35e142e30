"""Reads configs that older versions of sslx stored with runs and weights."""

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
  model = stored.get("model", {})
  if "backbone" not in model:
    return dict(stored)
  model = {**model, "backbone": backbone(model["backbone"])}
  return {**stored, "model": model}


def backbone(section: Mapping[str, Any]) -> dict[str, Any]:
  """A stored section `model.backbone`, with the present keys."""
  section = dict(section)
  if section.get("name") == "vit" and section.get("style") in _STYLES:
    section |= _STYLES[section.pop("style")]
  return section
