"""The values that change over a run: rates, decay, momentum, temperatures."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslx import optim, schedules
from sslx.experiment import Experiment
from sslx.experiment.building import without_frozen
from sslx.optim.settings import frozen_for
from sslx.report.tables import Table
from sslx.schedules import Plan, Schedule

_POINTS = 1000  # of a curve, about


class Curve(NamedTuple):
  """A value over the run.

  Attributes:
    group: "learning rate", "weight decay" or the name of a field of the method.
    name: the parameters that it is for; "" for all.
    at: int32[n] steps taken before -> float32[n].
    turns: steps at which it may change its course.
  """

  group: str
  name: str
  at: Callable[[np.ndarray], np.ndarray]
  turns: frozenset[int]

  @property
  def label(self) -> str:
    """Group and name."""
    return f"{self.group}: {self.name}" if self.name else self.group


def curves(experiment: Experiment) -> list[Curve]:
  """Returns the values of an experiment that change, and the constant rates.

  Parameters whose rules are alike are one curve; while they are frozen, their
  learning rate and weight decay are 0.
  """
  plan, o = experiment.step.method.plan, _optimizer(experiment)
  flat, _ = jax.tree_util.tree_flatten_with_path(
    experiment.abstract_state.params
  )
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  parameters = [(name(path), p) for path, p in flat]
  found = []
  for key, of in (
    (
      "learning rate",
      lambda path, p: (o.of("schedule", path), o.of("lr", path)),
    ),
    (
      "weight decay",
      lambda path, p: (
        o.weight_decay,
        0.0 if o.excludes(path, p) else o.of("weight_decay", path),
      ),
    ),
  ):
    groups: dict[Any, list[str]] = {}
    for path, p in parameters:
      kind = (*of(path, p), frozen_for(o.of("freeze", path), plan))
      groups.setdefault(kind, []).append(path)
    for (value, factor, frozen), paths in groups.items():
      if key == "learning rate":
        schedule = value or experiment.schedule.lr
        at = optim.learning_rate(o, schedule, plan)
      else:
        schedule, at = value, schedules.curve(value, plan)
      label = "" if len(groups) == 1 else _named(paths, len(parameters))
      found.append(_curve(key, label, at, schedule, plan, factor, frozen))
  return found + of_method(experiment)


def of_method(experiment: Experiment) -> list[Curve]:
  """Returns the schedules of the method, and the momentum of its teacher."""
  method = experiment.step.method
  values = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
  wanted = {k: x for k, x in values.items() if isinstance(x, Schedule)}
  found = [
    _curve(
      key.replace("_", " "), "", schedules.curve(x, method.plan), x, method.plan
    )
    for key, x in wanted.items()
    if key != "momentum" or not method.teachers
  ]
  if method.teachers:
    momentum = values.get("momentum")
    found.append(
      _curve("teacher momentum", "", method.momentum_at, momentum, method.plan)
    )
  return found


def _curve(
  group: str,
  name: str,
  at: Callable[[Any], Any],
  value: Any,
  plan: Plan,
  factor: float | None = None,
  frozen: int | None = 0,
) -> Curve:
  factor = 1.0 if factor is None else factor
  until = plan.total_steps if frozen is None else frozen
  one = lambda step: jnp.float32(factor * at(step)) * (step >= until)
  every = jax.jit(jax.vmap(one))
  turns = {until} if until else set()
  if isinstance(value, Schedule):
    lengths = (value.warmup, value.over, *value.milestones)
    turns |= {schedules.steps(x, plan) for x in lengths if x is not None}
  return Curve(
    group, name, lambda steps: np.asarray(every(jnp.asarray(steps))),
    frozenset(turns),
  )  # fmt: skip


def _named(paths: list[str], total: int) -> str:
  """Names a group of parameters."""
  if len(paths) == 1:
    return paths[0]
  return f"{len(paths)} of {total} parameters, such as {paths[0]}"


def sampled(found: Iterable[Curve], plan: Plan) -> np.ndarray:
  """Returns steps to draw curves at, int32[n]: even, and around the turns."""
  last = plan.total_steps - 1
  even = np.linspace(0, last, min(_POINTS, plan.total_steps))
  turns = itertools.chain.from_iterable(x.turns for x in found)
  near = [t + d for t in turns for d in (-1, 0)]
  steps = np.unique(np.concatenate([even.round(), near]).astype(np.int32))
  return steps[(steps >= 0) & (steps <= last)]


def table(found: list[Curve], experiment: Experiment) -> Table:
  """Returns the values at the start, after the warm-up, at half and at last."""
  plan = experiment.step.method.plan
  warm = schedules.steps(experiment.schedule.lr.warmup, plan)
  last = plan.total_steps - 1
  steps = np.array([0, min(warm, last), plan.total_steps // 2, last], np.int32)
  rows = [(x.label, *map(float, x.at(steps))) for x in found]
  names = ("start", "after warm-up", "half", "end")
  head = [f"{k} (step {n:,})" for k, n in zip(names, steps, strict=True)]
  frozen = _frozen(experiment)
  return Table("Schedules", ("value", *head), rows, frozen)


def _optimizer(experiment: Experiment) -> optim.Optimizer:
  o = experiment.schedule.optimizer
  return without_frozen(o, experiment.step.method)


def _frozen(experiment: Experiment) -> tuple[str, ...]:
  """Sentences about the parameters that the rules freeze."""
  plan, notes = experiment.step.method.plan, []
  for pattern, rule in _optimizer(experiment).rules:
    until = frozen_for(rule.freeze, plan)
    if until != 0:
      when = "the whole run" if until is None else f"the first {until:,} steps"
      notes.append(f"Frozen for {when}: parameters that match {pattern!r}.")
  return tuple(notes)
