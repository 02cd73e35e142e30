"""What the values of an MMSelfSup config are called in sslx."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

_METHODS = {"MoCo": "mocov2"}  # Other classes are called as their methods.
_SOURCES = {"ImageNet": "imagenet2012", "CIFAR10": "cifar10"}
_SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge"}
# MMSelfSup's key to sslx's, where the value is the same.
_SAME = {
  "model.backbone.depth": "model.backbone.depth",
  "model.backbone.zero_init_residual": "model.backbone.zero_init_residual",
  "model.backbone.stop_grad_conv1": "model.backbone.stop_grad_conv1",
  "model.backbone.mask_ratio": "model.mask_ratio",
  "model.queue_len": "model.queue_size",
  "model.head.temperature": "model.temperature",
  "model.head.loss.temperature": "model.temperature",
  "model.temperature": "model.temperature",
  "model.head.loss.epsilon": "model.epsilon",
  "model.head.loss.num_prototypes": "model.prototypes",
  "model.head.loss.sinkhorn_iterations": "model.sinkhorn_iterations",
  "optim_wrapper.optimizer.momentum": "schedule.optimizer.momentum",
  "optim_wrapper.optimizer.nesterov": "schedule.optimizer.nesterov",
  "optim_wrapper.optimizer.weight_decay": "schedule.optimizer.weight_decay",
  "optim_wrapper.accumulative_counts": "schedule.accumulate",
  "train_cfg.max_epochs": "schedule.epochs",
  "randomness.seed": "runtime.seed",
  "default_hooks.checkpoint.interval": "runtime.checkpoint.every_epochs",
  "default_hooks.checkpoint.max_keep_ckpts": "runtime.checkpoint.keep_last",
  "default_hooks.logger.interval": "runtime.log_every",
}
# What sslx does anyhow, or its method says: with this value, or whatever it is.
_GIVEN = {
  "model.feat_dim": None,
  "model.neck.type": None,
  "model.neck.in_channels": None,
  "model.neck.with_avg_pool": None,
  "model.head.type": None,
  "model.head.in_channels": None,
  "model.head.loss.type": None,
  "model.head.loss.feat_dim": None,
  "model.head.loss.num_crops": None,
  "model.head.predictor.type": None,
  "model.head.predictor.in_channels": None,
  "model.backbone.in_channels": 3,
  "model.backbone.style": "pytorch",
  "model.backbone.norm_eval": False,
  "model.backbone.out_indices": None,
  "model.data_preprocessor.bgr_to_rgb": True,
  "default_hooks.checkpoint.type": None,
  "default_hooks.logger.type": None,
  "train_cfg.type": "EpochBasedTrainLoop",
  "optim_wrapper.loss_scale": None,
}


class _Reader:
  """Looks values up by dotted path, and knows which were never asked for."""

  def __init__(self, values: dict):
    self._values = values
    self._taken: set[str] = set()

  def get(self, path: str, default: Any = None) -> Any:
    """The value at a path."""
    node = self._values
    for key in path.split("."):
      if isinstance(node, tuple) and key.isdigit() and int(key) < len(node):
        node = node[int(key)]
      elif isinstance(node, dict) and key in node:
        node = node[key]
      else:
        return default
    return node

  def take(self, path: str, default: Any = None) -> Any:
    """The value at a path, which is accounted for from now on."""
    self._taken.add(path)
    return self.get(path, default)

  def left(self) -> dict[str, Any]:
    """What nobody took, by the longest path above no value that was taken."""
    return dict(self._left(self._values, ""))

  def _left(self, node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path in self._taken:
      return
    below = any(taken.startswith(f"{path}.") for taken in self._taken)
    if path and not (below and isinstance(node, dict | tuple)):
      yield path, node
      return
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
      yield from self._left(value, f"{path}.{key}" if path else str(key))


def translate(
  values: dict[str, Any], stem: str
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Says in sslx's keys what an MMSelfSup config says.

  Args:
    values: of the config, sequences as tuples.
    stem: of its file's name, which alone says how many GPUs it is for.

  Returns:
    sslx key to value; and what has no counterpart, by MMSelfSup's key. The
    learning rate is the peak, for the whole batch; `model.method` may be
    spelled otherwise than in sslx.
  """
  r = _Reader(values)
  found: dict[str, Any] = {}
  for theirs, ours in _SAME.items():
    if (value := r.take(theirs)) is not None:
      found[ours] = value
  kind = _kind(r.take("model.type"))
  found["model.method"] = _METHODS.get(kind, kind) or stem.split("_")[0]
  for key in ("model.momentum", "model.base_momentum"):
    if (momentum := r.take(key)) is not None:
      # MMEngine averages with what is left to 1.
      found["model.momentum"] = 1 - momentum if momentum < 0.5 else momentum
  _backbone(r, found)
  _batch(r, found, stem)
  _optimizer(r, found)
  _learning_rate(r, found)
  unknown = _data(r, found)
  for name, path in (("projector", "neck"), ("predictor", "head.predictor")):
    if hidden := r.take(f"model.{path}.hid_channels"):
      layers = r.take(f"model.{path}.num_layers", 2)
      out = r.take(f"model.{path}.out_channels")
      found[f"model.{name}.dims"] = (hidden,) * (layers - 1) + (out,)
  for path, value in _GIVEN.items():
    if value in (None, r.get(path)):
      r.take(path)
  return found, r.left() | unknown


def values_equal(a: Any, b: Any) -> bool:
  """Whether two values mean the same; numbers up to rounding."""
  if isinstance(a, tuple) and isinstance(b, tuple):
    return len(a) == len(b) and all(map(values_equal, a, b))
  number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  if number(a) and number(b):
    return math.isclose(a, b, rel_tol=1e-4)
  return type(a) is type(b) and a == b


def _backbone(r: _Reader, found: dict[str, Any]) -> None:
  kind = _kind(r.take("model.backbone.type"))
  if "ViT" in kind or "VisionTransformer" in kind:
    found["model.backbone.name"] = "vit"
    arch = str(r.take("model.backbone.arch", "base")).rpartition("-")[2]
    found["model.backbone.variant"] = _SIZES.get(arch, arch)
    found["model.backbone.patch_size"] = r.take("model.backbone.patch_size", 16)
  elif kind:
    found["model.backbone.name"] = kind.lower()


def _batch(r: _Reader, found: dict[str, Any], stem: str) -> None:
  each = r.get("train_dataloader.batch_size")
  named = re.search(r"_(\d+)xb\d+", stem)
  base = r.take("auto_scale_lr.base_batch_size")
  if each and (named or base):
    gpus = int(named[1]) if named else base // each
    found["data.batch_size"] = gpus * r.take("train_dataloader.batch_size")
    norm = r.get("model.backbone.norm_cfg.type")
    if norm in ("BN", "SyncBN"):
      r.take("model.backbone.norm_cfg.type")
      found["model.norm_groups"] = 1 if norm == "SyncBN" else gpus


def _optimizer(r: _Reader, found: dict[str, Any]) -> None:
  wrapper = _kind(r.take("optim_wrapper.type"))
  if wrapper:
    amp = wrapper == "AmpOptimWrapper"
    found["model.dtype"] = "bfloat16" if amp else "float32"
  if name := _kind(r.take("optim_wrapper.optimizer.type")):
    found["schedule.optimizer.name"] = name.lower()
  if (lr := r.take("optim_wrapper.optimizer.lr")) is not None:
    found["schedule.optimizer.lr"] = lr
  if betas := r.take("optim_wrapper.optimizer.betas"):
    found["schedule.optimizer.b1"], found["schedule.optimizer.b2"] = betas
  for i, hook in enumerate(r.get("custom_hooks", ())):
    if _kind(hook.get("type")) == "SwAVHook":
      r.take(f"custom_hooks.{i}")
      frozen = hook.get("frozen_layers_cfg", {})
      wanted = {
        "model.queue_size": hook.get("queue_length"),
        "model.queue_start_epoch": hook.get("epoch_queue_starts"),
        "schedule.optimizer.freeze_steps": frozen.get("prototypes"),
      }
      found |= {key: v for key, v in wanted.items() if v is not None}


def _learning_rate(r: _Reader, found: dict[str, Any]) -> None:
  schedulers = r.get("param_scheduler", ())
  single = isinstance(schedulers, dict)
  for i, one in enumerate((schedulers,) if single else schedulers):
    kind = _kind(one.get("type"))
    if kind == "LinearLR" and one.get("by_epoch", True):
      found["schedule.lr.warmup_epochs"] = one.get("end", 0)
      found["schedule.lr.warmup_from"] = one.get("start_factor", 1 / 3)
    elif kind == "CosineAnnealingLR":
      steps = one.get("convert_to_iter_based") or not one.get("by_epoch", True)
      peak = found.get("schedule.optimizer.lr", 1.0)
      found |= {
        "schedule.lr.kind": "cosine",
        "schedule.lr.final": one.get("eta_min", 0.0) / peak,
        "schedule.lr.per": "step" if steps else "epoch",
      }
    elif kind == "MultiStepLR":
      found |= {
        "schedule.lr.kind": "step",
        "schedule.lr.milestones": one.get("milestones", ()),
        "schedule.lr.gamma": one.get("gamma", 0.1),
      }
    else:
      continue
    r.take("param_scheduler" if single else f"param_scheduler.{i}")
  if schedulers:
    found.setdefault("schedule.lr.warmup_epochs", 0)


def _data(r: _Reader, found: dict[str, Any]) -> dict[str, Any]:
  """Returns the transforms that have no counterpart, by their place."""
  for key in ("mean", "std"):
    if value := r.take(f"model.data_preprocessor.{key}"):
      found[f"data.{key}"] = tuple(round(x / 255, 4) for x in value)
  kind = _kind(r.get("train_dataloader.dataset.type"))
  if kind in _SOURCES:
    r.take("train_dataloader.dataset.type")
    found["data.source"] = _SOURCES[kind]
  where = "train_dataloader.dataset.pipeline"
  pipeline = r.take(where, ())
  unknown: dict[str, Any] = {}
  views: list[dict[str, Any]] = []
  for transforms, count in _views(pipeline):
    view = _view(transforms, unknown) | {"count": count}
    if views and views[-1] | {"count": 0} == view | {"count": 0}:
      views[-1]["count"] += count
    else:
      views.append(view)
  for i, view in enumerate(views):
    found |= {f"data.views.{i}.{key}": value for key, value in view.items()}
  return {f"{where}: {kind}": one for kind, one in unknown.items()}


def _views(pipeline: tuple[dict, ...]) -> list[tuple[tuple[dict, ...], int]]:
  """The transforms of each kind of view that a pipeline makes, and its count.

  What comes before `MultiView` is part of every view.
  """
  for i, step in enumerate(pipeline):
    if _kind(step.get("type")) == "MultiView":
      pipelines, counts = step["transforms"], step["num_views"]
      counts = (counts,) if isinstance(counts, int) else counts
      return [
        (pipeline[:i] + inner, count)
        for inner, count in zip(pipelines, counts, strict=True)
      ]
  return [(pipeline, 1)] if pipeline else []


def _view(
  transforms: tuple[dict, ...], unknown: dict[str, Any]
) -> dict[str, Any]:
  view: dict[str, Any] = {}
  for one in transforms:
    kind, asked = _kind(one.get("type")), {"type", *_PLAIN}

    def get(key: str, default: Any = None, one=one, asked=asked) -> Any:
      asked.add(key)
      return one.get(key, default)

    if kind == "RandomApply":
      inner = _view(get("transforms", ()), unknown)
      if "jitter" in inner:
        inner["jitter_prob"] = get("prob", 0.5)
      view |= inner
    elif kind in _TRANSFORMS:
      view |= _TRANSFORMS[kind](get)
    else:
      unknown[kind] = one
      continue
    unknown |= {f"{kind}.{k}": v for k, v in one.items() if k not in asked}
  return view


def _crop(get: Callable) -> dict[str, Any]:
  scale = get("scale")
  sizes = [x for x in (get("size"), scale) if isinstance(x, int)]
  area = scale if isinstance(scale, tuple) and max(scale) <= 1 else None
  return {
    "size": sizes[0] if sizes else get("size", scale)[0],
    "crop_scale": get("crop_ratio_range", area or (0.08, 1.0)),
    "interpolation": get("interpolation", "bilinear"),
  }


# How and with what label images travel.
_PLAIN = ("backend", "file_client_args", "meta_keys", "pseudo_label_keys")
_TRANSFORMS: dict[str, Callable] = {
  "LoadImageFromFile": lambda get: {},
  "PackSelfSupInputs": lambda get: {},
  "RandomResizedCrop": _crop,
  "RandomFlip": lambda get: {"flip": get("prob", 0.5)},
  "ColorJitter": lambda get: {
    "jitter": tuple(
      get(x, 0.0) for x in ("brightness", "contrast", "saturation", "hue")
    ),
    "jitter_prob": 1.0,
  },
  "RandomGrayscale": lambda get: {"grey": get("prob", 0.1)},
  "RandomGaussianBlur": lambda get: {
    "blur": get("prob", 0.5),
    "blur_sigma": (get("sigma_min", 0.1), get("sigma_max", 2.0)),
  },
  "RandomSolarize": lambda get: {"solarize": get("prob", 0.5)},
  "Resize": lambda get: {"resize": get("scale")},
  "RandomCrop": lambda get: {"crop": get("size", get("crop_size"))},
  "RandomPatchWithLabels": lambda get: {"kind": "patches"},
}


def _kind(name: str | None) -> str:
  """The class that a `type` names, without the scope before the dot."""
  return (name or "").rpartition(".")[2]
