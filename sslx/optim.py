"""Optimisers, with rules by parameter path.

Optimisers of the same name differ between papers. With gradient g, parameter p,
momentum m, decay w, trust coefficient c and learning rate lr:

  sgd    u = g + w p;                            v = m v + u;    p -= lr v
  larc   u = c |p| / (|g| + w |p| + eps) * (g + w p);
                                                 v = m v + u;    p -= lr v
  lars   d = g + w p;  u = c |p| / |d| * d;      v = m v + lr u; p -= v
  adamw  u = adam(g) + w p;                                      p -= lr u

`sgd` is torch's. `larc` is apex's, used by SwAV. `lars` is that of SimCLR's
code; its momentum includes the learning rates of past steps. MoCo v3 and BYOL
keep the learning rate out of the momentum; their form equals `larc` up to O(w)
in the trust ratio. Patterns are regular expressions, searched for in paths such
as "backbone/conv1/kernel".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sslx import schedules
from sslx.config import ConfigError, require
from sslx.schedules import Length, Plan, Schedule, Value

_HERE = "schedule.optimizer"


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
    name: the optimiser, as in the module's docstring.
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

  def __post_init__(self):
    for key in ("lr", "lr_batch", "eps", "trust_coefficient"):
      v = getattr(self, key)
      require(self, key, v > 0, "above 0")
    clip = self.clip_norm
    require(self, "clip_norm", clip is None or clip > 0, "above 0, or None")
    for key in ("momentum", "b1", "b2"):
      v = getattr(self, key)
      require(self, key, 0 <= v < 1, "in [0, 1)")
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
  schedules.check(optimizer.weight_decay, plan, f"{_HERE}.weight_decay")
  for i, (pattern, rule) in enumerate(optimizer.rules):
    here = f"{_HERE}.rules.{i}.1"
    schedules.check(rule.schedule, plan, f"{here}.schedule")
    frozen = _frozen_for(rule.freeze, plan)
    if frozen is not None and frozen >= plan.total_steps:
      raise ConfigError(
        f"config.{here}.freeze is {rule.freeze}, until step {frozen}; the run"
        f" has {plan.total_steps} steps: the parameters {pattern!r} would never"
        " be trained. Freeze them for less, or set True for the whole run."
      )


def make(
  optimizer: Optimizer, lr_fn: optax.Schedule, params: Any, plan: Plan
) -> optax.GradientTransformation:
  """Makes the optimiser: `init(params)` and `update(grads, state, params)`.

  The schedules follow the count of updates in the state, so that a resumed run
  continues exactly. Trust ratios use the norm of one whole parameter. The
  gradients must be those of the global batch: the optimiser uses no collectives
  in either parallel mode.

  Args:
    optimizer: the settings.
    lr_fn: step -> float32[], such as the result of `learning_rate`.
    params: the parameters, or their shapes; the patterns are checked against
      them.
    plan: the run, for schedules and durations in the settings.

  Raises:
    ConfigError: a pattern is invalid, or matches no parameter.
  """
  flat, structure = jax.tree_util.tree_flatten_with_path(params)
  paths = [_name(path) for path, _ in flat]
  _check_patterns(optimizer, paths)
  frozen = [_frozen_for(optimizer.of("freeze", x), plan) for x in paths]
  update = _trained(optimizer, lr_fn, plan)
  if any(x != 0 for x in frozen):
    # One group for each duration, from the shortest to the whole run.
    names, groups = {0: "trained"}, {"trained": update}
    lasting = sorted(set(frozen) - {0}, key=lambda x: (x is None, x))
    for i, duration in enumerate(lasting):
      names[duration] = f"frozen_{i + 1}" if i else "frozen"
      groups[names[duration]] = _frozen(optimizer, lr_fn, plan, duration)
    labels = structure.unflatten([names[duration] for duration in frozen])
    update = optax.partition(groups, labels)
  if optimizer.clip_norm is not None:
    clip = optax.clip_by_global_norm(optimizer.clip_norm)
    update = optax.chain(clip, update)
  if any(rule.clip is not None for _, rule in optimizer.rules):
    clip = _leafwise(lambda path, g, _: _clipped(g, optimizer.of("clip", path)))
    update = optax.chain(clip, update)
  return update


def _check_patterns(optimizer: Optimizer, paths: Sequence[str]) -> None:
  for i, (pattern, _) in enumerate(optimizer.rules):
    here = f"config.{_HERE}.rules.{i}.0"
    try:
      found = any(re.search(pattern, path) for path in paths)
    except re.error as error:
      raise ConfigError(
        f"{here} is {pattern!r}, no regular expression: {error}."
      ) from None
    if not found:
      raise ConfigError(
        f"{here} is {pattern!r}, which matches none of the parameters:"
        f" {', '.join(paths[:5])}, ... ({len(paths)} in all)."
      )


def _frozen_for(freeze: bool | Length | None, plan: Plan) -> int | None:
  """Steps that a parameter is frozen for; None is the whole run."""
  if isinstance(freeze, bool) or freeze is None:
    return None if freeze else 0
  return schedules.steps(freeze, plan)


class _State(NamedTuple):
  count: jax.Array  # int32[], updates so far; the schedules follow it alone
  stages: optax.OptState


def _trained(
  o: Optimizer, lr_fn: Callable, plan: Plan, start: int = 0
) -> optax.GradientTransformation:
  """Optimiser of trained parameters: the formulas in the module docstring.

  Args:
    o: the settings.
    lr_fn: step -> learning rate.
    plan: the run.
    start: the step of the run at which its first update happens.
  """
  decay_at = schedules.curve(o.weight_decay, plan)

  def stages(step: Any) -> optax.GradientTransformation:
    common, w = lr_fn(step), decay_at(step)

    def lr(path: str) -> Any:
      own = o.of("schedule", path)
      return common if own is None else learning_rate(o, own, plan)(step)

    decay = _leafwise(lambda path, g, p: g + _decay(o, w, path, p) * p)
    trust = _leafwise(lambda path, g, p: _trust(o, lr(path), w, path, g, p))
    rate = _leafwise(lambda path, u, _: -lr(path) * u)
    momentum = optax.trace(o.momentum, o.nesterov)
    chosen = {
      "sgd": (decay, momentum, rate),
      "larc": (trust, momentum, rate),
      "lars": (trust, rate, momentum),
      "adamw": (optax.scale_by_adam(o.b1, o.b2, o.eps), decay, rate),
    }[o.name]
    own = _leafwise(lambda path, u, _: _factor(o, "lr", path) * u)
    return optax.chain(*chosen, own)

  def init(params: Any) -> _State:
    return _State(jnp.zeros([], jnp.int32), stages(0).init(params))

  def update(grads: Any, state: _State, params: Any) -> tuple[Any, _State]:
    now = stages(state.count + start)
    updates, inner = now.update(grads, state.stages, params)
    return updates, _State(optax.safe_increment(state.count), inner)

  return optax.GradientTransformation(init, update)


def _frozen(
  o: Optimizer, lr_fn: Callable, plan: Plan, duration: int | None
) -> optax.GradientTransformation:
  """No update for a duration, then the optimiser from a fresh state."""
  # Zero gradients would not freeze: weight decay moves p and fills the
  # momentum.
  if duration is None:
    return optax.set_to_zero()
  late = _trained(o, lr_fn, plan, start=duration)
  return optax.conditionally_mask(late, lambda step: step >= duration)


def _trust(
  o: Optimizer, lr: Any, w: Any, path: str, g: Any, p: Any
) -> jax.Array:
  """Returns the direction u of lars or larc.

  If |p| or |g| is 0, there is no trust ratio: lars uses g + w p, as SimCLR's
  code does, and larc uses g without decay, as apex does.
  """
  if o.excludes(path, p):
    return g
  norm = lambda x: jnp.linalg.norm(x.astype(jnp.float32))
  decay = _decay(o, w, path, p)
  decayed = g + decay * p
  plain = decayed if o.name == "lars" else g
  p_norm, g_norm = norm(p), norm(plain)
  below = g_norm if o.name == "lars" else g_norm + decay * p_norm + o.eps
  trusted = (p_norm > 0) & (g_norm > 0)
  ratio = o.trust_coefficient * p_norm / jnp.where(trusted, below, 1)
  if o.trust_clip:
    lr = lr * _factor(o, "lr", path)
    ratio = jnp.where(ratio < lr, ratio / lr, 1)
  return jnp.where(trusted, ratio * decayed, plain).astype(g.dtype)


def _decay(o: Optimizer, w: Any, path: str, p: jax.Array) -> Any:
  return 0.0 if o.excludes(path, p) else w * _factor(o, "weight_decay", path)


def _factor(o: Optimizer, key: str, path: str) -> float:
  factor = o.of(key, path)
  return 1.0 if factor is None else factor


def _clipped(g: jax.Array, limit: float | None) -> jax.Array:
  """Scales the gradient of one parameter to a norm of at most `limit`."""
  if limit is None:
    return g
  norm = jnp.linalg.norm(g.astype(jnp.float32))
  scale = jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1), 1)
  return (g * scale).astype(g.dtype)


def _leafwise(function: Callable[..., Any]) -> optax.GradientTransformation:
  """Makes a stateless transformation of function(path, g, p) on each leaf."""
  at = lambda path, g, p: function(_name(path), g, p)
  # Not a precomputed tree of masks: optax.partition passes a tree with holes.
  return optax.stateless(
    lambda grads, params: jax.tree_util.tree_map_with_path(at, grads, params)
  )


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")
