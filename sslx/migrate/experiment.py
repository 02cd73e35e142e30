"""Describes a foreign config as complete config sections of sslx.

Features that the foreign config does not have are switched off.
"""

from __future__ import annotations

import re
from typing import Any

from sslx.config.errors import ConfigError
from sslx.methods import METHODS
from sslx.migrate import methods, networks, schedule
from sslx.migrate.foreign import Node, rounded
from sslx.migrate.views import views

_SOURCES = {
  "ImageNet": "imagenet2012",
  "CIFAR10": "cifar10",
  "CIFAR100": "cifar100",
  "CustomDataset": "folder",
}
_OLD = ("lr_config", "runner", "optimizer_config", "total_epochs")


def describe(config: Node, stem: str) -> dict[str, Any]:
  """The sections, with the keys that the foreign config decides.

  Args:
    config: the foreign config.
    stem: name of its file, without suffix, which may give the number of GPUs.

  Raises:
    ConfigError: it asks for something that sslx does not have.
  """
  old = [key for key in _OLD if key in config]
  if old and "optim_wrapper" not in config:
    raise ConfigError(
      f"it has {', '.join(old)}, as files of MMSelfSup 0.x do; migrate reads"
      " those of 1.x. Bring it there first."
    )
  model, loader = config.group("model"), config.group("train_dataloader")
  wrapper = config.group("optim_wrapper")
  method = methods.method(model)
  made = views(loader.group("dataset"))
  counts = tuple(view["count"] for view in made)
  section = methods.section(model, counts, config.groups("custom_hooks"))
  accumulate = _accumulate(wrapper, method)
  batch, gpus, scale = _batch(config, loader, stem)
  if method == "swav" and section["queue_size"] < (batch or 0):
    section["queue_size"] = 0  # MMSelfSup rounds down to whole batches.
  normed = [model.group("backbone"), model.group("neck")]
  normed.append(model.group("head").group("predictor"))
  section |= networks.norm_groups(normed, gpus, accumulate)
  section["dtype"] = schedule.precision(wrapper)
  owner = model if "data_preprocessor" in model else config
  data = {"views": made} | _data(loader, owner.group("data_preprocessor"))
  if batch is not None:
    data["batch_size"] = batch * accumulate
  return {
    "model": section,
    "data": data,
    "schedule": schedule.section(config, section, accumulate, scale),
    "runtime": _runtime(config),
  }


def _accumulate(wrapper: Node, method: str) -> int:
  """Micro-batches per optimiser step."""
  count = wrapper.take("accumulative_counts", int, 1)
  # DINO's is a property, which is true of the class; MMSelfSup has no KoLeo.
  if count > 1 and not METHODS[method].accumulates:
    why = f"{method} compares the images of a batch: sslx does not cut it"
    wrapper.note("accumulative_counts", why)
    return 1
  return count


def _batch(
  config: Node, loader: Node, stem: str
) -> tuple[int | None, int | None, float]:
  """Images on all GPUs, number of GPUs, and learning-rate factor.

  The first two are None if the number of GPUs is unknown.
  """
  each = loader.take("batch_size", int)
  if each < 1:
    raise ConfigError(
      f"{loader.at('batch_size')} is {each}; it must be 1 or more."
    )
  scaling = config.group("auto_scale_lr")
  base = scaling.take("base_batch_size", int | None, None)
  enabled = scaling.take("enable", bool, False)
  if named := re.search(r"_(\d+)xb\d+", stem):
    gpus = int(named[1])
    if not enabled:
      scaling.idle("base_batch_size")
  elif base and base >= each:
    gpus = base // each
  else:
    why = "of each GPU; a name with 8xb32 or auto_scale_lr would say how many"
    loader.note("batch_size", why)
    return None, None, 1.0
  batch = gpus * each
  return batch, gpus, batch / base if enabled and base else 1.0


def _data(loader: Node, preprocessor: Node) -> dict[str, Any]:
  """The data source, the channels, and their means and deviations."""
  loader.group("sampler").fixed("shuffle", True)
  usual = "SelfSupDataPreprocessor"
  preprocessor.is_a(usual, "RelativeLocDataPreprocessor", default=usual)
  preprocessor.fixed("bgr_to_rgb", False, True, why="sslx's images are RGB")
  three = tuple[float, float, float]
  found: dict[str, Any] = {"channels": 3}  # MMSelfSup reads its images as RGB.
  for key, nothing in (("mean", (0.0,) * 3), ("std", (1.0,) * 3)):
    value = preprocessor.take(key, three, nothing)
    found[key] = tuple(rounded(x / 255) for x in value)
  dataset = loader.group("dataset")
  kind = dataset.kind()
  if kind in _SOURCES:
    found["source"] = _SOURCES[kind]
  else:
    dataset.note("type", "see data.source")
  return found


def _runtime(config: Node) -> dict[str, Any]:
  """The keys of `runtime` that the foreign config sets.

  All others stay as in the recipe.
  """
  found: dict[str, Any] = {"checkpoint": {}}
  randomness = config.group("randomness")
  if (seed := randomness.take("seed", int | None, None)) is not None:
    found["seed"] = seed
  elif "seed" in randomness:
    randomness.note("seed", "a run of sslx always has one")
  hooks = config.group("default_hooks")
  logger, saver = hooks.group("logger"), hooks.group("checkpoint")
  saver.fixed("by_epoch", True, why="sslx counts in epochs")
  for node, key, section, ours in (
    (logger, "interval", found, "log_every"),
    (saver, "interval", found["checkpoint"], "every_epochs"),
    (saver, "max_keep_ckpts", found["checkpoint"], "keep_last"),
  ):
    count = node.take(key, int, 0)
    if count > 0:
      section[ours] = count
    elif key in node:
      node.note(key, f"see runtime: {ours}")
  return found
