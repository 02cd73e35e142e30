"""The networks of a method by module: parameters, FLOPs, activations."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.extend import core

from sslx.benchmark import work
from sslx.experiment import Experiment
from sslx.experiment.building import without_frozen
from sslx.methods.run import Run
from sslx.report.tables import Table

_REST = "(outside of the networks)"


class _Scoped(Run):
  """Calls networks in a scope of their name, which equations keep."""

  def __call__(self, name: str, x: jax.Array, **arguments: Any) -> Any:
    """See `Run`."""
    with jax.named_scope(name):
      return super().__call__(name, x, **arguments)

  def teacher(self, name: str, x: jax.Array, **arguments: Any) -> Any:
    """See `Run`."""
    with jax.named_scope("teacher"), jax.named_scope(name):
      return super().teacher(name, x, **arguments)


def tables(experiment: Experiment, depth: int = 2) -> list[Table]:
  """Returns the table of modules, and the table of totals.

  The FLOPs are those of the convolutions and matrix products of one training
  step's forward pass, over all views. The activations are the arrays that this
  pass keeps for the backward pass, before XLA fuses operations. Both are per
  image of the batch. The parameters of the teacher are a copy of the student's.

  Args:
    experiment: what to describe.
    depth: levels of modules to show; what is deeper counts for its parent.
  """
  state, step = experiment.abstract_state, experiment.step
  aux = state.aux.get("params", {}) if step.method.teachers else {}
  tree = {**state.params, **({"teacher": aux} if aux else {})}
  cut = lambda path: path[: depth + (path[:1] == ("teacher",))]
  parameters, roles = Counter(), {}
  frozen = _frozen(experiment)
  for path, p in jax.tree_util.tree_flatten_with_path(tree)[0]:
    keys = tuple(key.key for key in path)
    module = cut(keys[:-1] or keys)
    parameters[module] += math.prod(p.shape)
    role = "teacher" if keys[0] == "teacher" else frozen["/".join(keys)]
    roles.setdefault(module, Counter())[role] += math.prod(p.shape)
  flops, activations = _work(experiment, tree, cut)

  # In the order of the computation; what computes nothing comes last.
  modules = dict.fromkeys((*flops, *activations, *parameters))
  rows = [
    (
      "/".join(x) or _REST,
      " and ".join(roles.get(x, ())) or None,
      parameters[x],
      flops[x] / 1e9,
      activations[x] / 2**20,
    )
    for x in sorted(modules, key=lambda x: _place(x, [*tree]))
  ]
  head = (
    "module",
    "role",
    "parameters",
    "GFLOP per image",
    "activations per image (MiB)",
  )
  method = type(step.method).__name__
  return [
    Table(f"{method} by module", head, rows),
    _totals(rows, roles, f"{method} in total"),
  ]


def _place(module: tuple[str, ...], networks: list[str]) -> tuple:
  """Orders modules: by network, then by name with numbers as numbers."""
  first = networks.index(module[0]) if module else len(networks)
  number = lambda x: [
    int(n) if n.isdigit() else n for n in re.split(r"(\d+)", x)
  ]
  return first, [number(x) for x in module]


def _frozen(experiment: Experiment) -> dict[str, str]:
  """Returns "trained" or "frozen" for the path of each parameter."""
  o = without_frozen(experiment.schedule.optimizer, experiment.step.method)
  flat = jax.tree_util.tree_flatten_with_path(experiment.abstract_state.params)
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in flat[0]
  ]
  is_frozen = {name: o.of("freeze", name) is True for name in names}
  return {k: "frozen" if x else "trained" for k, x in is_frozen.items()}


def _totals(
  rows: list[tuple], roles: Mapping[Any, Counter], title: str
) -> Table:
  counts = sum(roles.values(), Counter())
  named = [
    (f"{role} parameters", counts[role])
    for role in ("trained", "frozen", "teacher")
    if counts[role]
  ]
  named += [
    ("forward GFLOP per image", sum(row[3] for row in rows)),
    ("activations per image (MiB)", sum(row[4] for row in rows)),
  ]
  notes = (
    "Forward pass of a training step over all views, per image. FLOPs are those"
    " of convolutions and matrix products. Activations are what is kept for the"
    " backward pass, before XLA fuses operations.",
  )
  return Table(title, ("what", "value"), named, notes)


def _work(
  experiment: Experiment, tree: Mapping[str, Any], cut: Any
) -> tuple[Counter, Counter]:
  """Returns FLOPs and bytes of activations per image, by module."""
  loss, (params, *rest), batch = work.abstract_loss(
    experiment, experiment.step.method, _Scoped
  )
  images = experiment.data.batch_size

  def residuals(params, rest, batch):
    _, pullback = jax.vjp(lambda p: loss(p, *rest, batch), params)
    return jax.tree.leaves(pullback)

  jaxpr = jax.make_jaxpr(residuals)(params, rest, batch).jaxpr
  flops, kept = Counter(), Counter()
  for scope, count in work.scoped(jaxpr):
    flops[cut(_module(scope, tree))] += count / images
  for scope, size in _kept(jaxpr):
    kept[cut(_module(scope, tree))] += size / images
  return flops, kept


def _kept(jaxpr: Any) -> Iterator[tuple[str, int]]:
  """Yields the scope and the bytes of each array that is computed and kept."""
  made = {x: e for e in jaxpr.eqns for x in e.outvars}
  # Literals are constants; parameters and images are inputs, made by nothing.
  variables = (x for x in jaxpr.outvars if not isinstance(x, core.Literal))
  for x in dict.fromkeys(variables):
    if x in made:
      size = math.prod(x.aval.shape) * x.aval.dtype.itemsize
      yield str(made[x].source_info.name_stack), size


def _module(scope: str, tree: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the path of a scope's module: the words that are keys of `tree`.

  The other words are names of classes and methods, and transformations such as
  `jvp(...)`.
  """
  path: list[str] = []
  here: Any = tree
  for word in _words(scope):
    if isinstance(here, Mapping) and isinstance(here.get(word), Mapping):
      here = here[word]
      path.append(word)
  return tuple(path)


def _words(scope: str) -> Iterable[str]:
  return re.sub(r"\w+\(|\)", "", scope).split("/")
