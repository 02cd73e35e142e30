"""Values that change over a run, and the durations in it.

A learning rate, a weight decay, a teacher's momentum or a temperature is a
`Value`: a number, or a `Schedule`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from sslx.config import ConfigError, require


class Plan(NamedTuple):
  """The run that schedules and durations belong to.

  Attributes:
    batch_size: global batch size.
    steps_per_epoch: optimiser steps per epoch.
    total_steps: optimiser steps of the whole run.
    images: number of images of the training set.
    classes: number of classes of the training set; None if it has no labels, or
      if the set is not known.
  """

  batch_size: int = 1
  steps_per_epoch: int = 1
  total_steps: int = 1
  images: int = 1
  classes: int | None = None


@dataclasses.dataclass(frozen=True)
class Duration:
  """A duration in a run, in one of four units.

  Where a config takes a duration, a plain number is in epochs.

  Attributes:
    epochs: passes over the data; may be a fraction.
    steps: optimiser steps.
    images: images seen.
    share: share of the whole run.
  """

  epochs: float | None = None
  steps: int | None = None
  images: int | None = None
  share: float | None = None

  def __post_init__(self):
    given = {k: x for k, x in vars(self).items() if x is not None}
    if len(given) != 1:
      raise ValueError(
        f"one of {', '.join(vars(self))} must be set; here are {given}."
      )
    for key, x in given.items():
      require(self, key, x >= 0, "at least 0")

  def __str__(self) -> str:
    (found,) = ((k, x) for k, x in vars(self).items() if x is not None)
    key, x = found
    return f"{x} of the run" if key == "share" else f"{x} {key}"


Length = float | Duration


def require_length(settings: Any, key: str) -> None:
  """Raises ValueError if a field, a `Length` or None, is negative."""
  length = getattr(settings, key)
  fits = length is None or isinstance(length, Duration) or length >= 0
  require(settings, key, fits, "a duration of at least 0")


def steps(length: Length, plan: Plan) -> int:
  """Returns a duration in optimiser steps, rounded; images are rounded down."""
  if not isinstance(length, Duration):
    length = Duration(epochs=length)
  if length.steps is not None:
    return length.steps
  if length.images is not None:
    return length.images // plan.batch_size
  if length.share is not None:
    return round(length.share * plan.total_steps)
  return round(length.epochs * plan.steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A value over a run: a linear warm-up, then a curve.

  In `schedule.lr`, and in `schedule` of an optimiser's rule, the values are
  factors of the peak learning rate.

  Attributes:
    kind: the curve after the warm-up.
    start: the value at the end of the warm-up, where the curve starts.
    final: the value at the end of a cosine or a line.
    warmup: length of the warm-up, which changes at every step.
    warmup_from: the value at step 0, if there is a warm-up.
    over: when a cosine or a line ends, counted from the start of training; None
      is the end of the run. I-JEPA has {"share": 1.25}.
    milestones, gamma: `kind="step"` multiplies the value by gamma at each of
      these times, counted from the start of training.
    per: "epoch" keeps a cosine or a line constant within each epoch, as in
      MoCo v2.
  """

  kind: Literal["cosine", "linear", "step", "constant"] = "cosine"
  start: float = 1.0
  final: float = 0.0
  warmup: Length = 0.0
  warmup_from: float = 0.0
  over: Length | None = None
  milestones: tuple[Length, ...] = ()
  gamma: float = 0.1
  per: Literal["step", "epoch"] = "step"

  def __post_init__(self):
    for key in ("warmup", "over"):
      require_length(self, key)
    require(self, "gamma", 0 < self.gamma <= 1, "in (0, 1]")
    if self.kind == "step":
      require(self, "milestones", bool(self.milestones), "one time or more")

  def bounds(self) -> tuple[float, float]:
    """Returns the least and the greatest value."""
    values = [self.start]
    if self.warmup != 0:
      values.append(self.warmup_from)
    if self.kind in ("cosine", "linear"):
      values.append(self.final)
    if self.kind == "step":
      values.append(self.start * self.gamma ** len(self.milestones))
    return min(values), max(values)


Value = float | Schedule


def bounds(value: Value) -> tuple[float, float]:
  """Returns the least and the greatest value that a `Value` takes."""
  return value.bounds() if isinstance(value, Schedule) else (value, value)


def require_between(
  settings: Any, key: str, low: float, high: float, accepted: str
) -> None:
  """Raises ValueError unless all values of a field are within [low, high].

  Args:
    settings: instance of a settings class.
    key: name of the field, a `Value`.
    low: the least value accepted.
    high: the greatest value accepted.
    accepted: description of the accepted values.
  """
  least, most = bounds(getattr(settings, key))
  require(settings, key, low <= least and most <= high, accepted)


def require_positive(settings: Any, key: str) -> None:
  """Raises ValueError unless all values of a field, a `Value`, are above 0."""
  least, _ = bounds(getattr(settings, key))
  require(settings, key, least > 0, "positive")


def check(value: Value | None, plan: Plan, path: str) -> None:
  """Checks the durations of a value against the length of the run.

  Args:
    value: a number or None needs no check.
    plan: the run.
    path: dotted path of the value in the config.

  Raises:
    ConfigError: a warm-up or milestone is after the end of the run; milestones
      do not ascend; or the curve ends before the warm-up.
  """
  if not isinstance(value, Schedule):
    return
  warmup = steps(value.warmup, plan)
  times = [steps(x, plan) for x in value.milestones]
  if value.kind == "step" and sorted({0, *times}) != [0, *times]:
    raise ConfigError(
      f"config.{path}.milestones is {value.milestones}, at steps {times}; the"
      " times must be after step 0, and ascend."
    )
  late = {"warmup": warmup}
  if value.kind == "step":
    late["milestones"] = times[-1]
  for key, step in late.items():
    if step > plan.total_steps:
      raise ConfigError(
        f"config.{path}.{key} is {getattr(value, key)}, until step {step};"
        f" training ends at step {plan.total_steps}. Choose an earlier time, or"
        " a longer run."
      )
  end = None if value.over is None else steps(value.over, plan)
  if end is not None and end < max(warmup, 1):
    raise ConfigError(
      f"config.{path}.over is {value.over}, step {end}; the warm-up ends at"
      f" step {warmup}. The curve must end later."
    )


def curve(value: Value, plan: Plan) -> Callable[[Any], jax.Array | float]:
  """Returns the value as a function of the steps taken before.

  With a warm-up of W steps and a curve until step T, the value rises or falls
  linearly from `warmup_from` at step 0 to `start` at step W. From there a
  cosine is final + (start - final) (1 + cos(pi (t - W) / (T - W))) / 2. It
  reaches `final` at t = T, which is one beyond the last step taken, and stays
  there. A line does the same.

  Returns:
    A function: step (int, or traced int32[]) -> float32[]; of a number, the
    number itself.
  """
  if not isinstance(value, Schedule):
    return lambda step: value
  start, final, kind = value.start, value.final, value.kind
  warmup = steps(value.warmup, plan)
  end = plan.total_steps if value.over is None else steps(value.over, plan)
  milestones = [steps(x, plan) for x in value.milestones]

  def after_warmup(step: jax.Array) -> jax.Array:
    if kind == "constant":
      return jnp.float32(start)
    if kind == "step":
      passed = jnp.sum(step >= jnp.asarray(milestones))
      return start * jnp.float32(value.gamma) ** passed
    if value.per == "epoch":
      step = step // plan.steps_per_epoch * plan.steps_per_epoch
    done = (step - warmup).astype(jnp.float32) / max(end - warmup, 1)
    done = jnp.clip(done, 0, 1)
    if kind == "linear":
      return start + (final - start) * done
    return final + (start - final) * (0.5 * (1 + jnp.cos(jnp.pi * done)))

  def at(step: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.int32)
    climbed = step.astype(jnp.float32) / max(warmup, 1)
    ramp = value.warmup_from + (start - value.warmup_from) * climbed
    return jnp.where(step < warmup, ramp, after_warmup(step))

  return at
