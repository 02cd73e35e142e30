"""Builds recipe names from configs, and checks names against configs.

A recipe is called `{algorithm}_{module}_{training}_{data}.py`, as in MMSelfSup:

  swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96.py

algorithm  `model.method`; a paper's version is part of it (mocov2).
module     `model.backbone`: resnet50, vit-base-p16. Sizes that differ from
           the named network follow: `-w96-d4-h3` are a ViT's width, depth and
           heads; `-w25` is a ResNet of a quarter (25 %) of the usual width.
training   `8xb32`: a global batch of 8 x 32 = 256, with BatchNorm statistics
           over the whole batch (`model.norm_groups` 1) or in 8 groups of 32.
           `mcrop-2-6`: crops of 2 sizes, with 2 and 6 views.
           `accum16`: 16 micro-batches per optimiser step.
           `bf16`: compute dtype.
           `coslr`, `steplr`, `constlr`: learning-rate schedule.
           `200e`: epochs; `100000it`: optimiser steps; `9000000img`: images.
data       the data set, and the crop sizes if they are not its usual size.

A protocol that evaluates a network is called after the network and the task,
`{module}_{task}-{training}_{data}.py`, as MMSelfSup's benchmarks are:

  resnet50_linear-moco-8xb32-steplr-100e_in1k.py

task       `linear`, `ft` (fine-tuning) or `semisup` (fine-tuning with a part of
           the labels), and the paper whose protocol it is.

A name may leave a part out only in the default case: one crop size, no
accumulation, float32, the usual size.
"""

from __future__ import annotations

import re
from typing import Any

from ml_collections import ConfigDict

from sslx.models.vit import VARIANTS

BACKBONES = {"resnet": "resnet{depth}", "vit": "vit-{variant}-p{patch_size}"}
SETS = {
  "imagenet2012": "in1k",
  "imagenet2012_1percent": "in1pct",
  "imagenet2012_10percent": "in10pct",
}
USUAL_SIZES = {
  "in1k": 224,
  "in1pct": 224,
  "in10pct": 224,
  "cifar10": 32,
  "cifar100": 32,
  "shapes": 32,
}
DTYPES = {"bfloat16": "bf16", "float16": "fp16"}
SCHEDULES = {"cosine": "coslr", "step": "steplr", "constant": "constlr"}

# The tasks of the methods that evaluate a network.
TASKS = {"linear": ("linear",), "finetune": ("ft", "semisup")}

_WORDS = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_TRAINING = (
  r"(?P<batch>\d+xb\d+)(?:-(?P<crops>mcrop(?:-\d+)+))?"
  r"(?:-(?P<accumulation>accum\d+))?(?:-(?P<dtype>(?:bf|fp)\d+))?"
  r"-(?P<schedule>[a-z]+lr)-(?P<length>\d+(?:e|it|img))"
  rf"_(?P<data>{_WORDS})"
)
_NAME = re.compile(rf"(?P<algorithm>{_WORDS})_(?P<module>{_WORDS})_{_TRAINING}")
_PROTOCOL = re.compile(
  rf"(?P<module>{_WORDS})_(?P<task>linear|ft|semisup)"
  rf"(?P<paper>(?:-[a-z0-9]+)*?)-{_TRAINING}"
)
_KEYS = {
  "algorithm": "model.method",
  "module": "model.backbone",
  "crops": "data.views",
  "accumulation": "schedule.accumulate",
  "dtype": "model.dtype",
  "schedule": "schedule.lr.kind",
  "length": "schedule",
  "data": "data.source and data.views",
}


def facts(config: ConfigDict) -> dict[str, str]:
  """The parts of the name that this config should have.

  Args:
    config: a resolved config.

  Returns:
    Text by part of the name; "" for a part to leave out. `batch` is not
    included, because 8 x 32 and 16 x 16 may both be right; see `check`.
  """
  model, data, schedule = config.model, config.data, config.schedule
  sizes: dict[int, int] = {}
  for view in data.views:
    # A linked view is the same crop once more.
    linked = view.get("link") is not None
    if view.get("kind", "crop") == "crop" and not linked:
      size = view["size"]  # A config built in Python may hold plain dicts.
      sizes[size] = sizes.get(size, 0) + view.get("count", 1)
  crops = "-".join(map(str, ["mcrop", *sizes.values()]))
  accumulation = schedule.get("accumulate", 1)
  dataset = re.split("[/:]", data.source)[0]
  dataset = SETS.get(dataset, _word(dataset))
  usual = not sizes or list(sizes) == [USUAL_SIZES.get(dataset)]
  return {
    "algorithm": _word(model.method),
    "module": _module(model.backbone),
    "crops": crops if len(sizes) > 1 else "",
    "accumulation": f"accum{accumulation}" if accumulation > 1 else "",
    "dtype": DTYPES.get(model.get("dtype"), ""),
    "schedule": SCHEDULES.get(schedule.lr.kind, schedule.lr.kind),
    "length": _length(schedule),
    "data": dataset if usual else "-".join(map(str, [dataset, *sizes])),
  }


def check(name: str, config: ConfigDict) -> list[str]:
  """Checks the name of a recipe against its content.

  Args:
    name: file name without suffix.
    config: resolved content of the file.

  Returns:
    One message for each part of the name that is wrong.
  """
  tasks = TASKS.get(config.model.method)
  match = (_PROTOCOL if tasks else _NAME).fullmatch(name)
  if not match:
    return [
      "the name is not of the form {algorithm}_{module}_{training}_{data}, with"
      " training {N}xb{M}[-mcrop-{n}-{n}][-accum{n}][-bf16]-{coslr|steplr|"
      f"constlr}}-{{n}}e. By its content it would be {full_name(config)!r}."
    ]
  wrong, true_parts = [], facts(config)
  if tasks:
    del true_parts["algorithm"]
    if match["task"] not in tasks:
      wrong.append(
        f"task: the name has {match['task']!r}, but config.model.method makes"
        f" it {' or '.join(map(repr, tasks))}."
      )
  for part, true in true_parts.items():
    said = match[part] or ""
    if said != true:
      wrong.append(
        f"{part}: the name has {_shown(said)}, but config.{_KEYS[part]} makes"
        f" it {_shown(true)}."
      )
  groups, each = map(int, match["batch"].split("xb"))
  if groups * each != config.data.batch_size:
    wrong.append(
      f"batch: the name has {match['batch']!r}, {groups * each} in all, but"
      f" config.data.batch_size is {config.data.batch_size}."
    )
  if config.model.get("norm_groups", 1) not in (1, groups):
    wrong.append(
      f"batch: the name has {match['batch']!r}, but config.model.norm_groups is"
      f" {config.model.norm_groups}; it must be {groups}, or 1 for"
      " synchronised BatchNorm."
    )
  return wrong


def is_full(name: str) -> bool:
  """Whether a name has the form of a recipe name."""
  return any(form.fullmatch(name) for form in (_NAME, _PROTOCOL))


def full_name(config: ConfigDict, groups: int | None = None) -> str:
  """The name of a recipe with this content.

  Args:
    config: a resolved config.
    groups: N of `NxbM`; by default the number of BatchNorm groups.
  """
  parts = facts(config)
  groups = groups or config.model.get("norm_groups", 1)
  training = [
    f"{groups}xb{config.data.batch_size // groups}",
    *(parts[k] for k in ("crops", "accumulation", "dtype", "schedule")),
    parts["length"],
  ]
  words = "-".join(filter(None, training))
  first = [parts["algorithm"], parts["module"], words]
  if config.model.method in TASKS:
    first = [parts["module"], f"{TASKS[config.model.method][0]}-{words}"]
  return "_".join([*first, parts["data"]])


def _length(schedule: Any) -> str:
  """The length of the run, such as 200e."""
  units = {"epochs": "e", "steps": "it", "images": "img"}
  given = [(schedule.get(key), unit) for key, unit in units.items()]
  return "".join(f"{n}{unit}" for n, unit in given if n is not None)


def _module(backbone: Any) -> str:
  name = BACKBONES.get(backbone.name, _word(backbone.name))
  try:
    name = name.format(**backbone)
  except KeyError as error:
    return f"{name} without {error}"
  return _word("-".join([name, *_sizes(backbone)]))


def _sizes(backbone: Any) -> list[str]:
  """Name parts for the sizes that differ from the named network."""
  if backbone.name == "resnet":
    width = backbone.get("width", 1.0)
    return [] if width == 1 else [f"w{100 * width:g}"]
  if backbone.name != "vit":
    return []
  usual = zip(
    ("width", "depth", "heads"), VARIANTS[backbone.variant], strict=True
  )
  return [
    f"{key[0]}{backbone[key]}"
    for key, size in usual
    if backbone.get(key) not in (None, size)
  ]


def _shown(word: str) -> str:
  return repr(word) if word else "nothing"


def _word(text: str) -> str:
  return re.sub(r"[^a-z0-9]+", "-", text.lower())
