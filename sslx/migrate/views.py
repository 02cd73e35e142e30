"""Key `data.views`: translates pipelines of transforms to views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sslx.config.errors import ConfigError
from sslx.migrate.foreign import Node

# Transforms that load and pack images.
_IDLE = ("LoadImageFromFile", "PackSelfSupInputs")
_LUMA, _EVEN = (0.114, 0.587, 0.2989), (1.0, 1.0, 1.0)
_GAP = 21  # pixels; MMSelfSup's patches are smaller than their cells by this


def views(dataset: Node) -> tuple[dict[str, Any], ...]:
  """The views that the pipeline of a dataset makes of each image.

  Raises:
    ConfigError: sslx cannot express the views.
  """
  pipeline, where = dataset.groups("pipeline"), dataset.at("pipeline")
  found: list[dict[str, Any]] = []
  for transforms, count in _pipelines(pipeline):
    view = _view(transforms, where) | {"count": count}
    if found and found[-1] | {"count": 0} == view | {"count": 0}:
      found[-1]["count"] += count
    else:
      found.append(view)
  return tuple(found)


def _pipelines(pipeline: list[Node]) -> list[tuple[list[Node], int]]:
  """The transforms of each kind of view, and the number of such views.

  Transforms before `MultiView` are part of every view.
  """
  for i, step in enumerate(pipeline):
    if step.kind() == "MultiView":
      counts = step.take("num_views", int | tuple[int, ...])
      counts = (counts,) if isinstance(counts, int) else counts
      rows = step.rows("transforms")
      if len(counts) != len(rows):
        raise ConfigError(
          f"{step.at('num_views')} is {counts}, but there are {len(rows)}"
          " pipelines in its transforms."
        )
      for after in pipeline[i + 1 :]:
        if after.kind() in _IDLE:
          after.idle_all()
      return [(pipeline[:i] + x, n) for x, n in zip(rows, counts, strict=True)]
  return [(pipeline, 1)]


def _view(transforms: list[Node], where: str) -> dict[str, Any]:
  """All keys of a view; augmentations without a transform are off."""
  steps = [x for x in _single(transforms) if x[0].kind() not in _IDLE]
  if any(step.kind() == "RandomPatchWithLabels" for step, _ in steps):
    known, found = _PATCHES, {"kind": "patches", "grey": 0.0}
  else:
    off = dict.fromkeys(("flip", "grey", "blur", "solarize"), 0.0)
    known, found = _CROPS, {"kind": "crop", "jitter": (0.0,) * 4, "then": ()}
    found |= off | {"rand_augment": None}
  # MMSelfSup has no linked views, and one normalisation for all.
  found |= dict.fromkeys(("link", "mean", "std"))
  done: list[str] = []
  for node, chance in steps:
    kind = node.kind()
    if kind not in known:
      node.note_all(f"sslx has {', '.join(known)}")
    elif kind in done:
      node.note_all("sslx does it once to a view")
    else:
      found |= known[kind](node, chance)
      rank = _ORDER.get(kind, 0)
      for before in done:
        if _ORDER.get(before, 0) > rank > 0:
          node.note("type", f"sslx does it before {before}")
      done.append(kind)
  for needed in _NEEDED & known.keys():
    if needed not in done:
      raise ConfigError(
        f"{where} makes a view without {needed}, which each of sslx has."
      )
  if found["kind"] == "patches":
    found["size"] = found["crop"] // 3 - _GAP
  return found


def _single(transforms: list[Node]) -> Iterator[tuple[Node, float]]:
  """Yields each transform, and the probability that it is applied."""
  for node in transforms:
    kind = node.kind()
    if kind in _IDLE:
      node.fixed("color_type", "color")
      node.idle_all()
    if kind != "RandomApply":
      yield node, 1.0
      continue
    inner = node.groups("transforms")
    chance = node.take("prob", float, 0.5)
    if len(inner) == 1:
      yield inner[0], chance
    else:
      node.note_all("sslx decides on each transform for itself")


def _always(node: Node, chance: float) -> None:
  if chance != 1:
    node.note("type", f"always in sslx, not with {chance:g}")


def _interpolation(node: Node) -> dict[str, Any]:
  node.fixed("backend", "cv2", "pillow", why="sslx resizes as Pillow does")
  value = node.take("interpolation", str, "bilinear")
  if value in ("bilinear", "bicubic"):
    return {"interpolation": value}
  node.note("interpolation", "sslx has bilinear and bicubic")
  return {"interpolation": "bilinear"}


def _side(node: Node, key: str) -> int:
  """The side of a square, which an int or a pair gives."""
  size = node.take(key, int | tuple[int, int])
  if isinstance(size, int):
    return size
  if size[0] != size[1]:
    node.note(key, "sslx has squares")
  return size[0]


def _crop(node: Node, chance: float) -> dict[str, Any]:
  _always(node, chance)
  node.fixed("max_attempts", 10)
  # MMPreTrain's class names the size "scale", and the scale "crop_ratio_range".
  scale, ratio = ("scale", "ratio") if "size" in node else _PRETRAIN
  pair = tuple[float, float]
  return {
    "size": _side(node, "size" if "size" in node else "scale"),
    "crop_scale": node.take(scale, pair, (0.08, 1.0)),
    "crop_ratio": node.take(ratio, pair, (3 / 4, 4 / 3)),
    **_interpolation(node),
  }


_PRETRAIN = ("crop_ratio_range", "aspect_ratio_range")


def _flip(node: Node, chance: float) -> dict[str, Any]:
  node.fixed("direction", "horizontal")
  return {"flip": chance * node.take("prob", float, 0.0)}


def _jitter(node: Node, chance: float) -> dict[str, Any]:
  node.idle("backend")
  strengths = []
  for key in ("brightness", "contrast", "saturation", "hue"):
    value = node.take(key, float | tuple[float, float], 0.0)
    if isinstance(value, tuple):
      node.note(key, "sslx has one strength, the same up and down")
      value = 0.0
    strengths.append(value)
  return {"jitter": tuple(strengths), "jitter_prob": chance}


def _grey(node: Node, chance: float, weights: tuple = _LUMA) -> dict[str, Any]:
  node.fixed("keep_channels", False, True)
  node.fixed("channel_weights", _EVEN, weights)
  node.fixed("color_format", "bgr")
  return {"grey": chance * node.take("prob", float, 0.1)}


def _blur(node: Node, chance: float) -> dict[str, Any]:
  return {
    "blur": chance * node.take("prob", float, 0.5),
    "blur_sigma": tuple(
      node.take(key, float) for key in ("sigma_min", "sigma_max")
    ),
  }


def _solarize(node: Node, chance: float) -> dict[str, Any]:
  node.fixed("threshold", 128)
  return {"solarize": chance * node.take("prob", float, 0.5)}


def _resize(node: Node, chance: float) -> dict[str, Any]:
  _always(node, chance)
  node.fixed("keep_ratio", False)
  return {"resize": _side(node, "scale"), **_interpolation(node)}


def _cut(node: Node, chance: float) -> dict[str, Any]:
  _always(node, chance)
  node.fixed("padding", None)
  node.fixed("pad_if_needed", False)
  return {"crop": _side(node, "size")}


def _patches(node: Node, chance: float) -> dict[str, Any]:
  _always(node, chance)
  return {}


_Transform = Callable[[Node, float], dict[str, Any]]
_CROPS: dict[str, _Transform] = {
  "RandomResizedCrop": _crop,
  "RandomFlip": _flip,
  "ColorJitter": _jitter,
  "RandomGrayscale": _grey,
  "RandomGaussianBlur": _blur,
  "RandomSolarize": _solarize,
}
_PATCHES: dict[str, _Transform] = {
  "Resize": _resize,
  "RandomCrop": _cut,
  "RandomGrayscale": lambda node, chance: _grey(node, chance, _EVEN),
  "RandomPatchWithLabels": _patches,
}
_NEEDED = {"RandomResizedCrop", "Resize", "RandomCrop"}
# Positions in sslx's order of transforms that do not commute.
_ORDER = {
  "RandomResizedCrop": 1,
  "ColorJitter": 2,
  "RandomGrayscale": 3,
  "RandomGaussianBlur": 4,
  "RandomSolarize": 5,
  "Resize": 1,
  "RandomCrop": 2,
  "RandomPatchWithLabels": 6,
}
