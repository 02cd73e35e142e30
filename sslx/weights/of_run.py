"""Loads weights from another run's checkpoint, sharded as in this run."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sslx import methods
from sslx.checkpoint import Weights
from sslx.config import ConfigError
from sslx.weights import facts, names
from sslx.weights.run import read_config
from sslx.weights.source import InitFrom, Taken, check_fit

_POSITIONS = "params/backbone/pos_embed"


def take(
  source: InitFrom, method: methods.Method, trees: Mapping[str, Any]
) -> Taken:
  """Reads the parts that the two runs share, or those that the config names.

  Args:
    source: config section `runtime.init_from`, with a run's workdir as path.
    method: method of this run.
    trees: its "params" and "model_state", ShapeDtypeStructs with shardings.

  Returns:
    Arrays by path, sharded as in `trees`.

  Raises:
    ConfigError: the weights do not fit, or the config names unknown parts.
    CheckpointError: the other run's checkpoint cannot be read.
  """
  other = read_config(source.path, "config.runtime.init_from")
  theirs, everything = other.model.method, tuple(trees["params"])
  cls = methods.METHODS.get(theirs)
  network = source.what or (cls.evaluated if cls else "student")
  common = ("backbone",)
  if cls is type(method):
    common = everything if network == "student" else method.taught
  parts = source.parts or common or ("backbone",)
  unknown = [part for part in parts if part not in everything]
  if unknown:
    raise ConfigError(
      f"config.runtime.init_from.parts has {unknown[0]!r};"
      f" {type(method).__name__} has {', '.join(map(repr, everything))}."
    )
  if "backbone" in parts:
    facts.check_own(other.model.backbone, method.backbone, source.path)
  mine = lambda path: path.split("/")[1] in parts
  wanted = {
    f"{group}/{path}": x
    for group, tree in trees.items()
    for path, x in names.flat(tree).items()
    if path.split("/")[0] in parts
  }
  above = "aux/" if network == "teacher" else ""
  with Weights(source.path, source.step) as weights:
    there = {
      path.removeprefix(above): shape
      for path, shape in weights.shapes.items()
      if path.startswith((f"{above}params/", f"{above}model_state/"))
    }
    there = {path: shape for path, shape in there.items() if mine(path)}
    if above and not there:
      raise ConfigError(
        f"config.runtime.init_from.what is 'teacher'; the run in {source.path}"
        f" ({theirs}) has one network only."
      )
    asked = dict(wanted)
    if _POSITIONS in asked and _POSITIONS in there:
      asked[_POSITIONS] = _on_every_device(asked[_POSITIONS], there[_POSITIONS])
    advice = "Set config.model.backbone as it is there"
    if len(parts) > 1:
      advice = (
        "To take the backbone alone set"
        " config.runtime.init_from.parts=('backbone',)"
      )
    shapes = {path: x.shape for path, x in asked.items()}
    check_fit(source, shapes, there, advice)
    asked = {p: x for p, x in asked.items() if there.get(p) == x.shape}
    tree = _nested({f"{above}{path}": x for path, x in asked.items()})
    loaded = names.flat(weights.load(tree))
  loaded = {path.removeprefix(above): x for path, x in loaded.items()}

  notes = [f"{theirs}, step {weights.step}"]
  table = loaded.get(_POSITIONS)
  if table is not None and table.shape != wanted[_POSITIONS].shape:
    table = np.asarray(table.addressable_data(0))[0]
    table, note = facts.resized(table, method.backbone.trained_grid)
    loaded[_POSITIONS] = table[None]
    notes.append(note)
  count = lambda paths: collections.Counter(p.split("/")[1] for p in paths)
  got, all_ = count(loaded), count(wanted)
  notes += [f"{part}: {got[part]} of {all_[part]} tensors" for part in parts]
  new = [part for part in everything if part not in parts]
  if new:
    notes.append(f"not taken: {', '.join(new)}")
  group = lambda name: {
    path.removeprefix(f"{name}/"): x
    for path, x in loaded.items()
    if path.startswith(f"{name}/")
  }
  return Taken(group("params"), group("model_state"), notes)


def _on_every_device(x: Any, shape: tuple[int, ...]) -> Any:
  """Makes learned positions of another grid replicated.

  The sharding of this run's grid may not divide the other grid.
  """
  if x.shape == shape or shape[::2] != x.shape[::2]:
    return x
  sharding = NamedSharding(x.sharding.mesh, PartitionSpec())
  return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dictionaries from leaves by path."""
  tree: dict[str, Any] = {}
  for path, x in leaves.items():
    *above, last = path.split("/")
    node = tree
    for key in above:
      node = node.setdefault(key, {})
    node[last] = x
  return tree
