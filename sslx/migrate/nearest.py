"""Finds the recipe that differs least from a described experiment."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sslx.config.errors import ConfigError
from sslx.config.tree import DELETE, leaves
from sslx.migrate.foreign import equal, rounded

# Weights of differing keys, by pattern; all other keys weigh 1.
_WEIGHTS = ((r"model\.backbone\..*|data\.source", 100), (r"data\.views.*", 3))


def nearest(
  wanted: dict[str, Any], recipes: Mapping[pathlib.Path, dict[str, Any]]
) -> tuple[pathlib.Path, dict[str, Any]]:
  """Finds the nearest recipe, and the changes that it needs.

  Args:
    wanted: sections of a config, with the keys that the foreign file decides.
      The learning rate is the peak rate for the whole batch.
    recipes: resolved content of each recipe.

  Returns:
    The recipe, and the changed values by dotted key.

  Raises:
    ConfigError: no recipe has this method.
  """
  method = wanted["model"]["method"]
  near = {x: t for x, t in recipes.items() if t["model"]["method"] == method}
  if not near:
    raise ConfigError(f"there is no recipe of method {method!r}.")
  recipe = min(near, key=lambda x: _distance(near[x], _based(wanted, near[x])))
  own = near[recipe]
  changes = dict(_changes(own, _based(wanted, own)))
  if "model.backbone" in changes and own["runtime"]["evaluate"]["features"]:
    # Another backbone has other features; () selects the default ones.
    changes["runtime.evaluate.features"] = ()
  return recipe, changes


def _based(wanted: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
  """Replaces the peak learning rate by the base rate that yields it.

  The scaling rule is that of the recipe `own`.
  """
  rule = own["schedule"]["optimizer"]
  batch = wanted["data"].get("batch_size", own["data"]["batch_size"])
  power = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}[rule["lr_scaling"]]
  schedule = wanted["schedule"]
  peak = schedule["optimizer"]["lr"]
  lr = rounded(peak / (batch / rule["lr_batch"]) ** power)
  optimizer = schedule["optimizer"] | {"lr": lr}
  return wanted | {"schedule": schedule | {"optimizer": optimizer}}


def _changes(
  own: dict[str, Any], wanted: dict[str, Any], above: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields key and value of each flag.

  Views of other kinds and a backbone of another class are replaced whole.
  """
  for key, value in wanted.items():
    path, there = f"{above}{key}", own.get(key)
    if path == "data.views":
      kinds = [[view.get("kind") for view in x] for x in (there, value)]
      if kinds[0] != kinds[1]:
        yield path, value
        continue
      for i, (one, two) in enumerate(zip(there, value, strict=True)):
        yield from _changes(one, two, f"{path}.{i}.")
    elif path == "model.backbone" and value["name"] != there["name"]:
      yield path, {DELETE: True} | value
    elif isinstance(value, dict):
      yield from _changes(there, value, f"{path}.")
    elif not equal(value, there):
      yield path, value


def _distance(own: dict[str, Any], wanted: dict[str, Any]) -> int:
  """The summed weight of all differing keys."""
  there = dict(leaves(own))
  here = dict(leaves(wanted))
  changed = [k for k, v in here.items() if not equal(v, there.get(k, ...))]
  views = len(own["data"]["views"]) - len(wanted["data"]["views"])
  changed += ["data.views"] * max(views, 0)
  return sum(map(_weight, changed))


def _weight(key: str) -> int:
  return next((w for pattern, w in _WEIGHTS if re.fullmatch(pattern, key)), 1)
