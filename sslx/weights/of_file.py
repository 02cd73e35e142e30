"""Loads a backbone from a file of sslx, timm or another library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sslx.config import ConfigError
from sslx.models.vit import ViT
from sslx.weights import check, facts, files, layouts, names
from sslx.weights.source import InitFrom, Taken, check_fit

_ADVICE = "Set config.model.backbone as it is there"


def take(source: InitFrom, backbone: Any, trees: Mapping[str, Any]) -> Taken:
  """Reads a backbone.

  Args:
    source: config section `runtime.init_from`, with a file or folder as path.
    backbone: a Linen module.
    trees: its "params" and "batch_stats", of arrays or ShapeDtypeStructs.

  Returns:
    Arrays by path, `backbone/...`.

  Raises:
    ConfigError: the file cannot be read, does not fit, or has other tensors.
  """
  for key in ("step", "parts"):
    if getattr(source, key) is not None:
      raise ConfigError(
        f"config.runtime.init_from.{key} is for runs, and {source.path} is a"
        " file, which gives a backbone alone. Leave it out."
      )
  file = files.read(source.path)
  wanted = {path: tuple(x.shape) for path, x in names.flat(trees).items()}
  if "backbone" in file.metadata:
    facts.check_own(file.metadata["backbone"], backbone, file.path)
  if any(name.startswith("params/") for name in file.content):
    loaded, notes = _of_npz(source, file, wanted)
  else:
    loaded, notes = _of_torch(source, file, backbone, wanted)
  if "check" in file.metadata and loaded.keys() == wanted.keys():
    variables = names.unflat(trees, loaded)
    pair = file.metadata["check"]
    notes.append(check.verify(pair, backbone, variables, file.path))
  back = lambda group: {
    path.replace(group, "backbone", 1): x
    for path, x in loaded.items()
    if path.startswith(group)
  }
  return Taken(back("params"), back("batch_stats"), notes)


def _of_npz(
  source: InitFrom, file: files.File, wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Takes tensors in sslx's names and layout."""
  there = {name: tuple(x.shape) for name, x in file.content.items()}
  check_fit(source, wanted, there, _ADVICE)
  loaded = {
    path: np.asarray(file.content[path])
    for path, shape in wanted.items()
    if there.get(path) == shape
  }
  return loaded, [f"backbone: {len(loaded)} of {len(wanted)} tensors"]


def _of_torch(
  source: InitFrom,
  file: files.File,
  backbone: Any,
  wanted: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Takes tensors in the names and layouts of torch libraries."""
  found = layouts.find(file, source.what)
  network = f", its {found.network}" if found.network else ""
  notes = [f"layout: {found.layout.name}{network}"]
  if isinstance(backbone, ViT):
    facts.drop_register_positions(backbone, found.tensors)
    if "backbone" not in file.metadata:
      notes += facts.check_vit(backbone, file, found, source.heads, source.eps)
    notes += facts.take_positions(backbone, found.tensors, file.path)
  keys = {path: names.torch_name(path.partition("/")[2]) for path in wanted}
  shapes = {
    keys[path]: names.torch_shape(path, shape) for path, shape in wanted.items()
  }
  there = {name: tuple(x.shape) for name, x in found.tensors.items()}
  check_fit(source, shapes, there, _ADVICE)
  loaded = {
    path: names.from_torch(
      path, np.asarray(found.tensors[name]).astype(np.float32), wanted[path]
    )
    for path, name in keys.items()
    if there.get(name) == shapes[name]
  }
  notes.append(f"backbone: {len(loaded)} of {len(wanted)} tensors")
  if found.left_out:
    parts = ", ".join(f"{k} ({n})" for k, n in found.left_out.items())
    notes.append(f"left out: {parts}")
  return loaded, notes
