"""Checks what must hold for every method, inside or outside the package.

`python -m sslx.testing --config=mine.py --config.data.batch_size=16` runs a
config for a few steps on eight simulated CPU devices, with images of random
pixels. Choose a small network and small views: it compiles about ten steps.
`check_method` does the same in a test.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import experiment as experiment_lib
from sslx import settings
from sslx.axis import Axis
from sslx.checkpoint import Checkpoint, Checkpoints
from sslx.data.sets import Arrays
from sslx.experiment import Experiment

_STEPS = 3
# Relative errors that rounding may cause: in one step; in the updates of all
# parameters, where Adam makes a full step of a gradient that should be zero; in
# the losses of three steps, in which values may cross the zero of a ReLU.
_ONE_STEP, _UPDATE, _THREE_STEPS = 1e-3, 0.2, 1e-2


class CheckError(AssertionError):
  """A method does not do what every method must do; the message says what."""


def check_method(
  config: ConfigDict,
  devices: Sequence[int] = (1, 2, 4, 8),
  note: Callable[[str], None] = print,
) -> None:
  """Checks a method by running its config for a few steps.

  * The loss and all gradients are finite, and a gradient reaches every
    parameter that is not frozen.
  * Numbers of devices and both modes give the same steps, up to rounding.
  * Micro-batches give the same step, or are refused.
  * A run that is resumed from a checkpoint is bitwise the same.

  Args:
    config: the config, as `settings.load` returns it. Its data is not read.
    devices: numbers of devices, of those that JAX has.
    note: called with a line for each check that has passed.

  Raises:
    CheckError: a check has failed.
    ConfigError: the config cannot run.
  """
  count = len(jax.devices())
  devices = [n for n in devices if n <= count]
  one = _build(config, 1)
  start = one.init_state()
  if one.epoch_start:
    start = one.epoch_start(start)
  start = jax.device_get(start)
  step = one.compiled_step()
  metrics, states = _run(one, start, step)
  finite = all(bool(m["finite"]) for m in metrics)
  _require(finite, f"loss or gradient is not finite: {_losses(metrics)}")
  note(f"finite: losses {_losses(metrics)}")

  dead = _dead(one, [start, *states[:-1]])
  _require(not dead, f"no gradient reaches {', '.join(dead)}")
  note("gradients: every parameter gets one")

  for mode, n in itertools.product(("pjit", "pmap"), devices):
    if (mode, n) == ("pjit", 1):
      continue
    other = _build(config, n, **{"runtime.parallel.mode": mode})
    found = _run(other, start, other.compiled_step())
    told = f"{mode} on {n} device{'s' * (n > 1)}"
    error = _compare(found, (metrics, states), start, told)
    note(f"{told}: the same up to rounding, {error:.0e}")

  try:
    parts = _build(config, 1, **{"schedule.accumulate": 2})
  except config_lib.ConfigError as refused:
    note(f"micro-batches are refused: {refused}")
  else:
    found = _run(parts, start, parts.compiled_step())
    error = _compare(found, (metrics, states), start, "two micro-batches")
    note(f"two micro-batches: the same up to rounding, {error:.0e}")

  _check_resume(one, step, start, metrics, states[-1])
  note("resumed from a checkpoint: bitwise the same")


def _build(config: ConfigDict, devices: int, **changes: Any) -> Experiment:
  """Builds an experiment on random images, with other values of some keys."""
  config = config.copy_and_resolve_references()
  for key, value in changes.items():
    config.update_from_flattened_dict({key: value})
  rng = np.random.default_rng(0)
  views = config.data.views
  side = max(v.get("resize", None) or v["size"] for v in views)
  channels = config.data.get("channels", 3)
  shape = (4 * config.data.batch_size, side, side, max(channels, 3))
  images = rng.integers(0, 256, shape, dtype=np.uint8)
  labels = np.arange(len(images), dtype=np.int32) % 10
  images = Arrays(images, labels, 10)
  return experiment_lib.build(config, jax.devices()[:devices], (images, images))


def _run(
  experiment: Experiment, start: Any, step: Callable
) -> tuple[list[dict[str, Any]], list[Any]]:
  """Returns the metrics of each step, and the state after it, on the host."""
  state = jax.device_put(start, experiment.state_shardings)
  metrics, states = [], []
  with contextlib.closing(experiment.batches()) as batches:
    for batch in itertools.islice(batches, _STEPS):
      state, out = step(state, batch)
      metrics.append(jax.device_get(out))
      states.append(jax.device_get(state))
  return metrics, states


def _dead(experiment: Experiment, states: list[Any]) -> list[str]:
  """Names the parameters whose gradient is zero in each of the states."""
  gradients = jax.jit(
    lambda state, batch: experiment.step.gradients(state, batch, Axis())[1]
  )
  alive: dict[str, bool] = {}
  with contextlib.closing(experiment.batches()) as batches:
    for state, batch in zip(states, batches, strict=False):
      found = jax.device_get(gradients(state, batch))
      for path, x in jax.tree_util.tree_leaves_with_path(found):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        alive[name] = alive.get(name, False) or bool(np.any(x))
  frozen = experiment.step.method.frozen
  return [
    name
    for name, ok in alive.items()
    if not ok and not any(re.search(p, name) for p in frozen)
  ]


def _compare(found: Any, expected: Any, start: Any, told: str) -> float:
  """Returns the largest relative error of the first step's metrics and state.

  Raises:
    CheckError: an error is too large.
  """
  (metrics, states), (old_metrics, old_states) = found, expected
  parts = lambda metrics, state: {
    "metrics": metrics,
    "model_state": state.model_state,
    "aux": state.aux,
  }
  worst = 0.0
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(parts(metrics[0], states[0])),
    jax.tree.leaves(parts(old_metrics[0], old_states[0])),
    strict=True,
  )
  for (path, new), old in pairs:
    error = _error(new, old)
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    _require(
      error < _ONE_STEP,
      f"{told}: {name} differs after one step, by {error:.1e}",
    )
    worst = max(worst, error)
  flat = lambda state: np.concatenate(
    [np.ravel(np.float64(x)) for x in jax.tree.leaves(state.params)]
  )
  # After all steps: where the learning rate warms up, the first update is zero.
  # Float32 rounds a parameter by 1e-7 of it, which bounds what can be seen.
  first, new, old = flat(start), flat(states[-1]), flat(old_states[-1])
  norm = np.linalg.norm
  error = norm(new - old) / (norm(old - first) + 1e-6 * norm(first))
  _require(error < _UPDATE, f"{told}: the updates differ, by {error:.1e}")
  for new, old in zip(metrics, old_metrics, strict=True):
    _require(
      _error(new["loss"], old["loss"]) < _THREE_STEPS,
      f"{told}: the losses are {_losses(metrics)}, not {_losses(old_metrics)}",
    )
  return worst


def _error(new: Any, old: Any) -> float:
  """Returns the error of an array relative to its norm."""
  new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
  return float(np.linalg.norm(new - old) / (np.linalg.norm(old) + 1e-3))


def _check_resume(
  experiment: Experiment,
  step: Callable,
  start: Any,
  metrics: list[dict[str, Any]],
  last: Any,
) -> None:
  """Saves after the first step, restores, and takes the other steps.

  Raises:
    CheckError: they are not bitwise the same.
  """
  state = jax.device_put(start, experiment.state_shardings)
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    saved = Checkpoints(folder, Checkpoint(), steps_per_epoch=1)
    stack.enter_context(contextlib.closing(saved))
    batches = stack.enter_context(contextlib.closing(experiment.batches()))
    state, _ = step(state, next(batches))
    saved.save(1, state, batches.state)
    saved.wait()
    state, data = saved.restore(experiment.abstract_state)
  rest = []
  with contextlib.closing(experiment.batches(data["next_index"])) as batches:
    for batch in itertools.islice(batches, _STEPS - 1):
      state, out = step(state, batch)
      rest.append(jax.device_get(out))
  pairs = zip(
    jax.tree_util.tree_leaves_with_path((rest, jax.device_get(state))),
    jax.tree.leaves((metrics[1:], last)),
    strict=True,
  )
  for (path, new), old in pairs:
    _require(
      np.array_equal(new, old, equal_nan=True),
      f"after a resume {jax.tree_util.keystr(path)} differs",
    )


def _losses(metrics: list[dict[str, Any]]) -> str:
  return ", ".join(f"{float(m['loss']):.6g}" for m in metrics)


def _require(ok: bool, message: str) -> None:
  if not ok:
    raise CheckError(message)


def main(argv: list[str]) -> None:
  """Checks the method of the config that the flags give."""
  overrides, rest = config_lib.split_overrides(argv)
  parser = argparse.ArgumentParser(
    prog="sslx.testing",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--config", required=True, help="with --config.a.b=value")
  flags = parser.parse_args(rest)
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 8)
  config = settings.load(flags.config, overrides)
  check_method(config, note=lambda line: print(line, flush=True))


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except (config_lib.ConfigError, CheckError) as error:
    sys.exit(f"error: {error}")
