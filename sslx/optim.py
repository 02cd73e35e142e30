"""Learning-rate schedules and optimisers, with rules by parameter path.

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

from sslx.config import ConfigError, require


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
    exclude: patterns of parameters without weight decay and trust ratio.
    exclude_1d: whether to exclude also every parameter of at most one
      dimension: biases and norm scales, but not a bias split by heads,
      [heads, d].
    decay_multipliers, lr_multipliers: (pattern, factor) pairs; the first match
      is used.
    freeze: patterns of parameters that do not change, nor does their optimiser
      state. Their gradients still count in the global norm, as in DINO.
    freeze_steps: number of steps to freeze them for (5005 for SwAV's
      prototypes), or None for the whole run. Afterwards, their learning rate
      follows the common schedule.
    clip_norm: the largest global gradient norm, or None for no clipping.
  """

  name: Literal["sgd", "adamw", "lars", "larc"]
  lr: float
  lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
  lr_batch: int = 256
  weight_decay: float = 0.0
  momentum: float = 0.9
  nesterov: bool = False
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  trust_coefficient: float = 0.001
  trust_clip: bool = False
  exclude: tuple[str, ...] = ()
  exclude_1d: bool = False
  decay_multipliers: tuple[tuple[str, float], ...] = ()
  lr_multipliers: tuple[tuple[str, float], ...] = ()
  freeze: tuple[str, ...] = ()
  freeze_steps: int | None = None
  clip_norm: float | None = None

  def __post_init__(self):
    for key in ("lr", "lr_batch", "eps", "trust_coefficient"):
      v = getattr(self, key)
      require(self, key, v > 0, "above 0")
    for key in ("clip_norm", "freeze_steps"):
      v = getattr(self, key)
      require(self, key, v is None or v > 0, "above 0, or None")
    for key in ("momentum", "b1", "b2"):
      v = getattr(self, key)
      require(self, key, 0 <= v < 1, "in [0, 1)")
    require(self, "weight_decay", self.weight_decay >= 0, "at least 0")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Settings of the learning rate schedule; config section `schedule.lr`.

  Attributes:
    kind: the schedule after the warm-up.
    warmup_epochs: length of the linear warm-up, which changes at every step.
    warmup_from: the learning rate at step 0, as a fraction of the peak.
    final: the learning rate at the end of the cosine, as a fraction of the
      peak.
    milestones, gamma: `kind="step"` multiplies the learning rate by gamma at
      each of these epochs, counted from the start of training.
    per: "epoch" keeps the cosine constant within each epoch, as in MoCo v2.
  """

  kind: Literal["cosine", "step", "constant"] = "cosine"
  warmup_epochs: float = 0.0
  warmup_from: float = 0.0
  final: float = 0.0
  milestones: tuple[int, ...] = ()
  gamma: float = 0.1
  per: Literal["step", "epoch"] = "step"

  def __post_init__(self):
    require(self, "warmup_epochs", self.warmup_epochs >= 0, "at least 0")
    for key in ("warmup_from", "final"):
      v = getattr(self, key)
      require(self, key, 0 <= v <= 1, "in [0, 1], of the peak")
    require(self, "gamma", 0 < self.gamma <= 1, "in (0, 1]")
    if self.kind == "step":
      v = self.milestones
      ascend = bool(v) and v[0] > 0 and list(v) == sorted(set(v))
      require(self, "milestones", ascend, "one or more epochs, ascending")


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
  optimizer: Optimizer,
  schedule: Schedule,
  *,
  global_batch: int,
  steps_per_epoch: int,
  epochs: int,
) -> optax.Schedule:
  """Returns the learning rate as a function of the steps taken before.

  With W warm-up steps and T steps in all, the learning rate rises linearly from
  `warmup_from` x peak at step 0 to the peak at step W. From there the cosine
  falls as final + (1 - final) (1 + cos(pi (t - W) / (T - W))) / 2. It reaches
  its end at t = T, one beyond the last step taken, and stays there.

  Args:
    optimizer: base learning rate and scaling.
    schedule: shape of the schedule.
    global_batch: images per step over all devices.
    steps_per_epoch: optimiser steps per epoch.
    epochs: length of training.

  Returns:
    A function: step (int, or traced int32[]) -> float32[].

  Raises:
    ConfigError: the warm-up or a milestone is beyond the end of training.
  """
  peak = peak_lr(optimizer, global_batch)
  total = epochs * steps_per_epoch
  warmup = round(schedule.warmup_epochs * steps_per_epoch)
  milestones = schedule.milestones if schedule.kind == "step" else ()
  if max(schedule.warmup_epochs, *milestones, 0) > epochs:
    raise ConfigError(
      f"config.schedule.lr has warmup_epochs={schedule.warmup_epochs} and"
      f" milestones={milestones}; training ends at epoch {epochs}."
    )

  def after_warmup(step: jax.Array) -> jax.Array:
    epoch = step // steps_per_epoch
    if schedule.kind == "constant":
      return jnp.float32(1)
    if schedule.kind == "step":
      passed = jnp.sum(epoch >= jnp.asarray(milestones))
      return jnp.float32(schedule.gamma) ** passed
    if schedule.per == "epoch":
      step = epoch * steps_per_epoch
    done = (step - warmup).astype(jnp.float32) / max(total - warmup, 1)
    wave = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
    return schedule.final + (1 - schedule.final) * wave

  def rate(step: Any) -> jax.Array:
    step = jnp.asarray(step, jnp.int32)
    climbed = step.astype(jnp.float32) / max(warmup, 1)
    ramp = schedule.warmup_from + (1 - schedule.warmup_from) * climbed
    return peak * jnp.where(step < warmup, ramp, after_warmup(step))

  return rate


def check_durations(optimizer: Optimizer, total_steps: int) -> None:
  """Checks the optimiser's durations against the length of the run.

  Raises:
    ConfigError: `freeze_steps` ends after the run.
  """
  frozen = optimizer.freeze_steps if optimizer.freeze else None
  if frozen is not None and frozen >= total_steps:
    raise ConfigError(
      f"config.schedule.optimizer.freeze_steps is {frozen}, and the run has"
      f" {total_steps} steps: the parameters {optimizer.freeze} would never be"
      " trained. Set fewer steps, or None to freeze them for the whole run."
    )


def path_mask(
  params: Any, patterns: Sequence[str], one_d: bool = False, key: str = "mask"
) -> Any:
  """Returns a tree of bool: whether a parameter's path matches any pattern.

  Args:
    params: tree of arrays, or of jax.ShapeDtypeStruct.
    patterns: regular expressions for paths.
    one_d: whether parameters of at most one dimension are True as well.
    key: name of the patterns, for the error message.

  Raises:
    ConfigError: a pattern is invalid, or matches no parameter.
  """
  flat, structure = jax.tree_util.tree_flatten_with_path(params)
  paths = [_name(path) for path, _ in flat]
  for pattern in patterns:
    try:
      found = any(re.search(pattern, path) for path in paths)
    except re.error as error:
      raise ConfigError(f"{key} has {pattern!r}: {error}.") from None
    if not found:
      raise ConfigError(
        f"{key} has {pattern!r}, which matches none of the parameters:"
        f" {', '.join(paths[:5])}, ... ({len(paths)} in all)."
      )
  return structure.unflatten(
    _matches(path, leaf, patterns, one_d)
    for path, (_, leaf) in zip(paths, flat, strict=True)
  )


def make(
  optimizer: Optimizer, lr_fn: optax.Schedule, params: Any
) -> optax.GradientTransformation:
  """Makes the optimiser: `init(params)` and `update(grads, state, params)`.

  The learning rate follows the count of updates in the state, so that a resumed
  run continues exactly. Trust ratios use the norm of one whole parameter. The
  gradients must be those of the global batch: the optimiser uses no collectives
  in either parallel mode.

  Args:
    optimizer: the settings.
    lr_fn: step -> float32[], such as the result of `learning_rate`.
    params: the parameters, or their shapes; the patterns are checked against
      them.

  Raises:
    ConfigError: a pattern is invalid, or matches no parameter.
  """
  for key in ("exclude", "decay_multipliers", "lr_multipliers", "freeze"):
    rules = getattr(optimizer, key)
    patterns = [r if isinstance(r, str) else r[0] for r in rules]
    path_mask(params, patterns, key=f"config.schedule.optimizer.{key}")
  update = _trained(optimizer, lr_fn)
  if optimizer.freeze:
    mask = path_mask(params, optimizer.freeze)
    labels = jax.tree.map(lambda hit: "frozen" if hit else "trained", mask)
    groups = {"trained": update, "frozen": _frozen(optimizer, lr_fn)}
    update = optax.partition(groups, labels)
  if optimizer.clip_norm is not None:
    clip = optax.clip_by_global_norm(optimizer.clip_norm)
    update = optax.chain(clip, update)
  return update


class _State(NamedTuple):
  count: jax.Array  # int32[], updates so far; it alone sets the learning rate
  stages: optax.OptState


def _trained(o: Optimizer, lr_fn: Callable) -> optax.GradientTransformation:
  """Optimiser of trained parameters: the formulas in the module docstring."""

  def stages(lr: Any) -> optax.GradientTransformation:
    decay = _leafwise(lambda path, g, p: g + _decay(o, path, p) * p)
    trust = _leafwise(lambda path, g, p: _trust(o, lr, path, g, p))
    momentum, rate = optax.trace(o.momentum, o.nesterov), optax.scale(-lr)
    chosen = {
      "sgd": (decay, momentum, rate),
      "larc": (trust, momentum, rate),
      "lars": (trust, rate, momentum),
      "adamw": (optax.scale_by_adam(o.b1, o.b2, o.eps), decay, rate),
    }[o.name]
    own = _leafwise(lambda path, u, _: _factor(o.lr_multipliers, path) * u)
    return optax.chain(*chosen, own)

  def init(params: Any) -> _State:
    return _State(jnp.zeros([], jnp.int32), stages(0.0).init(params))

  def update(grads: Any, state: _State, params: Any) -> tuple[Any, _State]:
    now = stages(lr_fn(state.count))
    updates, inner = now.update(grads, state.stages, params)
    return updates, _State(optax.safe_increment(state.count), inner)

  return optax.GradientTransformation(init, update)


def _frozen(o: Optimizer, lr_fn: Callable) -> optax.GradientTransformation:
  """No update until `freeze_steps`, then the optimiser from a fresh state."""
  # Zero gradients would not freeze: weight decay moves p and fills the
  # momentum.
  if o.freeze_steps is None:
    return optax.set_to_zero()
  late = _trained(o, lambda count: lr_fn(count + o.freeze_steps))
  return optax.conditionally_mask(late, lambda step: step >= o.freeze_steps)


def _trust(o: Optimizer, lr: Any, path: str, g: Any, p: Any) -> jax.Array:
  """Returns the direction u of lars or larc.

  If |p| or |g| is 0, there is no trust ratio: lars uses g + w p, as SimCLR's
  code does, and larc uses g without decay, as apex does.
  """
  if _matches(path, p, o.exclude, o.exclude_1d):
    return g
  norm = lambda x: jnp.linalg.norm(x.astype(jnp.float32))
  decay = _decay(o, path, p)
  decayed = g + decay * p
  plain = decayed if o.name == "lars" else g
  p_norm, g_norm = norm(p), norm(plain)
  below = g_norm if o.name == "lars" else g_norm + decay * p_norm + o.eps
  trusted = (p_norm > 0) & (g_norm > 0)
  ratio = o.trust_coefficient * p_norm / jnp.where(trusted, below, 1)
  if o.trust_clip:
    lr = lr * _factor(o.lr_multipliers, path)
    ratio = jnp.where(ratio < lr, ratio / lr, 1)
  return jnp.where(trusted, ratio * decayed, plain).astype(g.dtype)


def _decay(o: Optimizer, path: str, p: jax.Array) -> float:
  if _matches(path, p, o.exclude, o.exclude_1d):
    return 0.0
  return o.weight_decay * _factor(o.decay_multipliers, path)


def _matches(path: str, p: Any, patterns: Sequence[str], one_d: bool) -> bool:
  return any(re.search(x, path) for x in patterns) or (one_d and p.ndim <= 1)


def _factor(rules: Sequence[tuple[str, float]], path: str) -> float:
  return next((f for pattern, f in rules if re.search(pattern, path)), 1.0)


def _leafwise(function: Callable[..., Any]) -> optax.GradientTransformation:
  """Makes a stateless transformation of function(path, g, p) on each leaf."""
  at = lambda path, g, p: function(_name(path), g, p)
  # Not a precomputed tree of masks: optax.partition passes a tree with holes.
  return optax.stateless(
    lambda grads, params: jax.tree_util.tree_map_with_path(at, grads, params)
  )


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")
