"""The updates of the optimisers.

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
in the trust ratio.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sslx import schedules
from sslx.config import ConfigError
from sslx.optim.settings import HERE, Optimizer, frozen_for, learning_rate
from sslx.schedules import Plan


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
  frozen = [frozen_for(optimizer.of("freeze", x), plan) for x in paths]
  factors = _layer_factors(optimizer, paths)
  update = _trained(optimizer, lr_fn, plan, factors)
  if any(x != 0 for x in frozen):
    # One group for each duration, from the shortest to the whole run.
    names, groups = {0: "trained"}, {"trained": update}
    lasting = sorted(set(frozen) - {0}, key=lambda x: (x is None, x))
    for i, duration in enumerate(lasting):
      names[duration] = f"frozen_{i + 1}" if i else "frozen"
      groups[names[duration]] = _frozen(
        optimizer, lr_fn, plan, factors, duration
      )
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
    here = f"config.{HERE}.rules.{i}.0"
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


def _layer_factors(
  optimizer: Optimizer, paths: Sequence[str]
) -> dict[str, float]:
  """Factors of the learning rates of the backbone's layers, by parameter.

  A parameter after the blocks is not in it: its factor is 1.

  Raises:
    ConfigError: there is a layer decay, but the backbone has no blocks.
  """
  decay, factors = optimizer.layer_decay, {}
  if decay == 1:
    return factors
  blocks = {x: re.match(r"backbone/blocks_(\d+)/", x) for x in paths}
  numbers = [int(match[1]) for match in blocks.values() if match]
  if not numbers:
    raise ConfigError(
      f"config.{HERE}.layer_decay is {decay}, but this backbone has no"
      " transformer blocks. Set 1.0."
    )
  count = max(numbers) + 1
  for path, match in blocks.items():
    if match:
      factors[path] = decay ** (count - int(match[1]))
    elif re.match(r"backbone/(patch_embed/|\w+_token$|pos_embed$)", path):
      factors[path] = decay ** (count + 1)
  return factors


class _State(NamedTuple):
  count: jax.Array  # int32[], updates so far; the schedules follow it alone
  stages: optax.OptState


def _trained(
  o: Optimizer,
  lr_fn: Callable,
  plan: Plan,
  factors: Mapping[str, float],
  start: int = 0,
) -> optax.GradientTransformation:
  """Optimiser of trained parameters: the formulas in the module docstring.

  Args:
    o: the settings.
    lr_fn: step -> learning rate.
    plan: the run.
    factors: of the learning rate, by parameter; 1 if absent.
    start: the step of the run at which its first update happens.
  """
  decay_at = schedules.curve(o.weight_decay, plan)

  def stages(step: Any) -> optax.GradientTransformation:
    common, w = lr_fn(step), decay_at(step)

    def lr(path: str) -> Any:
      own = o.of("schedule", path)
      rate = common if own is None else learning_rate(o, own, plan)(step)
      return rate * factors[path] if path in factors else rate

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
  o: Optimizer,
  lr_fn: Callable,
  plan: Plan,
  factors: Mapping[str, float],
  duration: int | None,
) -> optax.GradientTransformation:
  """No update for a duration, then the optimiser from a fresh state."""
  # Zero gradients would not freeze: weight decay moves p and fills the
  # momentum.
  if duration is None:
    return optax.set_to_zero()
  late = _trained(o, lr_fn, plan, factors, start=duration)
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
