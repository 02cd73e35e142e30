"""Settings of the optimiser; `updates` has the formulas.

Patterns are regular expressions, searched for in paths such as
"backbone/conv1/kernel".
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

import optax

from sslx import schedules
from sslx.config import ConfigError, require
from sslx.schedules import Length, Plan, Schedule, Value

HERE = "schedule.optimizer"  # path of the section


@dataclasses.dataclass(frozen=True)
class Rule:
  """What is different for some parameters; None is as for all others.

  Attributes:
    lr: factor of the learning rate.
    weight_decay: factor of the weight decay.
    schedule: the schedule of their learning rate, instead of `schedule.lr`.
    freeze: True freezes the parameters for the whole run, a duration until
      then. Neither they nor their optimiser state change. Their gradients still
      count in the global norm, as in DINO. Afterwards, their learning rate
      follows the schedule, with a fresh optimiser state.
    clip: the largest norm of the gradient of one parameter.
    exclude: whether they have no weight decay and no trust ratio.
  """

  lr: float | None = None
  weight_decay: float | None = None
  schedule: Schedule | None = None
  freeze: bool | Length | None = None
  clip: float | None = None
  exclude: bool | None = None

  def __post_init__(self):
    for key in ("lr", "weight_decay"):
      v = getattr(self, key)
      require(self, key, v is None or v >= 0, "a factor of at least 0, or None")
    clip = self.clip
    require(self, "clip", clip is None or clip > 0, "above 0, or None")
    schedules.require_length(self, "freeze")
    if all(x is None for x in vars(self).values()):
      raise ValueError(f"a rule must set one of {', '.join(vars(self))}.")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """Settings of the optimiser; config section `schedule.optimizer`.

  Attributes:
    name: the optimiser, as in `updates`.
    lr: base learning rate, for a global batch of `lr_batch`.
    lr_scaling: how the learning rate grows with the global batch.
    lr_batch: the global batch size that `lr` is for.
    weight_decay: w.
    momentum: m, for sgd, lars and larc.
    nesterov: whether the direction is u + m v instead of v.
    b1, b2: decay of adamw's first and second moments.
    eps: added to a denominator, in adamw and larc.
    trust_coefficient: c, for lars and larc.
    trust_clip: whether the trust ratio becomes min(ratio / lr, 1), as in
      solo-learn's recipes.
    rules: (pattern, rule) pairs. For each key of `Rule`, the first pair counts
      that matches and sets it.
    exclude_1d: whether to exclude also every bias, and every other parameter of
      at most one dimension, such as the scale of a norm.
    clip_norm: the largest global gradient norm, or None for no clipping.
    layer_decay: d, for a ViT of n blocks: the learning rate of block i, counted
      from 0, has the factor d ** (n - i); that of the tokens before the blocks,
      d ** (n + 1) (Bao et al., BEiT, 2022, appendix; MAE, table 9).
  """

  name: Literal["sgd", "adamw", "lars", "larc"]
  lr: float
  lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
  lr_batch: int = 256
  weight_decay: Value = 0.0
  momentum: float = 0.9
  nesterov: bool = False
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  trust_coefficient: float = 0.001
  trust_clip: bool = False
  rules: tuple[tuple[str, Rule], ...] = ()
  exclude_1d: bool = False
  clip_norm: float | None = None
  layer_decay: float = 1.0

  def __post_init__(self):
    for key in ("lr", "lr_batch", "eps", "trust_coefficient"):
      v = getattr(self, key)
      require(self, key, v > 0, "above 0")
    clip = self.clip_norm
    require(self, "clip_norm", clip is None or clip > 0, "above 0, or None")
    for key in ("momentum", "b1", "b2"):
      v = getattr(self, key)
      require(self, key, 0 <= v < 1, "in [0, 1)")
    decay = 0 < self.layer_decay <= 1
    require(self, "layer_decay", decay, "above 0, and at most 1")
    least, _ = schedules.bounds(self.weight_decay)
    require(self, "weight_decay", least >= 0, "at least 0")

  def of(self, key: str, path: str) -> Any:
    """The value of a key of `Rule` for a parameter; None if no rule sets it."""
    for pattern, rule in self.rules:
      value = getattr(rule, key)
      if value is not None and re.search(pattern, path):
        return value
    return None

  def excludes(self, path: str, p: Any) -> bool:
    """Whether a parameter has no weight decay and no trust ratio."""
    said = self.of("exclude", path)
    # A bias may have two dimensions here: heads split it.
    one_d = p.ndim <= 1 or path.rpartition("/")[2] == "bias"
    return said if said is not None else self.exclude_1d and one_d


def peak_lr(optimizer: Optimizer, global_batch: int) -> float:
  """Returns the learning rate after warm-up, scaled to the global batch.

  It is `lr * (B / lr_batch)` if linear (Goyal et al. 2017, section 2.1), and
  `lr * sqrt(B / lr_batch)` if sqrt. SimCLR's 0.075 sqrt(B) (appendix B.1) is
  lr=0.075 with lr_batch=1 and sqrt.
  """
  ratio = global_batch / optimizer.lr_batch
  power = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}[optimizer.lr_scaling]
  return optimizer.lr * ratio**power


def learning_rate(
  optimizer: Optimizer, schedule: Schedule, plan: Plan
) -> optax.Schedule:
  """Returns the learning rate as a function of the steps taken before.

  It is the peak rate for the global batch times the value of the schedule.

  Returns:
    A function: step (int, or traced int32[]) -> float32[].
  """
  peak = peak_lr(optimizer, plan.batch_size)
  factor = schedules.curve(schedule, plan)
  return lambda step: peak * factor(step)


def check(optimizer: Optimizer, schedule: Schedule, plan: Plan) -> None:
  """Checks the durations of `schedule` against the length of the run.

  Raises:
    ConfigError: something is after the end of the run.
  """
  schedules.check(schedule, plan, "schedule.lr")
  schedules.check(optimizer.weight_decay, plan, f"{HERE}.weight_decay")
  for i, (pattern, rule) in enumerate(optimizer.rules):
    here = f"{HERE}.rules.{i}.1"
    schedules.check(rule.schedule, plan, f"{here}.schedule")
    frozen = frozen_for(rule.freeze, plan)
    if frozen is not None and frozen >= plan.total_steps:
      raise ConfigError(
        f"config.{here}.freeze is {rule.freeze}, until step {frozen}; the run"
        f" has {plan.total_steps} steps: the parameters {pattern!r} would never"
        " be trained. Freeze them for less, or set True for the whole run."
      )


def frozen_for(freeze: bool | Length | None, plan: Plan) -> int | None:
  """Steps that a parameter is frozen for; None is the whole run."""
  if isinstance(freeze, bool) or freeze is None:
    return None if freeze else 0
  return schedules.steps(freeze, plan)
