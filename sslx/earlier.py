"""Configs of runs that an earlier version of sslx stored.

A workdir holds the config of its run. These are the keys that were renamed
since, so that the run can still be resumed, evaluated and exported.
"""

from __future__ import annotations

from typing import Any


def translated(config: dict[str, Any]) -> dict[str, Any]:
  """Returns a stored config with the keys of this version.

  Args:
    config: the four sections, as JSON values.
  """
  model, schedule = dict(config["model"]), dict(config["schedule"])
  if "queue_start_epoch" in model:
    model["queue_start"] = float(model.pop("queue_start_epoch"))
  if model.get("method") == "mocov3" and isinstance(
    model.get("momentum", 0.99), float
  ):
    # It rose to 1 along half a cosine, without saying so.
    start = model.get("momentum", 0.99)
    model["momentum"] = {"kind": "cosine", "start": start, "final": 1.0}
  if isinstance(schedule.get("lr"), dict):
    schedule["lr"] = _rate(schedule["lr"])
  if isinstance(schedule.get("optimizer"), dict):
    schedule["optimizer"] = _optimizer(schedule["optimizer"])
  return {**config, "model": model, "schedule": schedule}


def _rate(lr: dict[str, Any]) -> dict[str, Any]:
  lr = dict(lr)
  if "warmup_epochs" in lr:
    lr["warmup"] = lr.pop("warmup_epochs")
  lr["milestones"] = [
    float(x) if isinstance(x, int) else x for x in lr.get("milestones", ())
  ]
  return lr


def _optimizer(optimizer: dict[str, Any]) -> dict[str, Any]:
  """Makes one list of rules of five parallel ones."""
  optimizer = dict(optimizer)
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
