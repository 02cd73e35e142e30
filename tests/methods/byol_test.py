"""BYOL against the official algorithm written out, and its known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import step as step_lib
from sslx.axis import Axis
from sslx.config import ConfigError
from tests import naive, tiny
from tests.naive import assert_near, unit

STEPS, TOTAL = 3, 8
LR, DECAY, BASE_EMA = 200 * tiny.BATCH / 256, 1e-3, 0.8


@jax.jit
def target_of(target, predictor, x):
  """The projections; what BatchNorm is given; and what was predicted of it."""
  z, given = naive.siamese(x, target)
  return z, given, naive.head(z, predictor)[0]


@jax.jit
def gradient(online, views, projections):
  """Of `regression_loss` in both directions, with what BatchNorm is given."""

  def loss_of(params):
    total, seen = 0.0, []
    for x, z in zip(views, projections, strict=True):
      p, given = naive.siamese(x, params)
      p, given["predictor"] = naive.head(p, params["predictor"])
      seen.append(given)
      total += jnp.mean(jnp.sum((unit(p) - unit(z)) ** 2, axis=-1))
    return total, seen

  return jax.value_and_grad(loss_of, has_aux=True)(online)


def decay(step):
  return 0.5 * (1 + np.cos(np.pi * step / TOTAL))


def direction(g, p, spared):
  """LARS; biases and norms are spared of decay and trust."""
  if spared:
    return g
  g = g + DECAY * p
  norms = np.linalg.norm(p), np.linalg.norm(g)
  return g * (1e-3 * norms[0] / norms[1] if min(norms) > 0 else 1)


def moments(stats, given):
  return {name: naive.running(stats[name], x) for name, x in given.items()}


def official_steps(start, views, mistake=""):
  """`byol_experiment.py` and its optimizer and schedules, step by step.

  Returns:
    The losses; the parameters, the target's, and the running statistics of
    both.
  """
  online, target = start.params, start.aux["params"]
  stats, target_stats = start.model_state, start.aux["model_state"]
  velocity = jax.tree.map(np.zeros_like, online)
  losses = []
  for step, pair in enumerate(views):
    projections = []
    for x in pair:
      z, given, predicted = jax.device_get(
        target_of(target, online["predictor"], x)
      )
      target_stats = moments(target_stats, given)
      wrong = mistake == "a predictor of the target"
      projections.append(predicted if wrong else z)
    if mistake != "the same view":
      projections = projections[::-1]
    (loss, seen), grads = jax.device_get(gradient(online, pair, projections))
    losses.append(loss)
    for given in seen:
      stats = moments(stats, given)

    before, rate = online, LR * decay(step)
    velocity = jax.tree.map(
      lambda v, g, p: (
        0.9 * v + direction(g, p, p.ndim == 1 and mistake != "all trusted")
      ),
      velocity,
      grads,
      online,
    )
    online = jax.tree.map(lambda p, v, r=rate: p - r * v, online, velocity)
    # Two micro-batches, each counted as a step: solo-learn's #248 and #286.
    count = 2 * step if mistake == "twice as many steps" else step
    tau = 1 - (1 - BASE_EMA) * decay(count)
    followed = before if mistake == "before the optimiser" else online
    target = jax.tree.map(
      lambda old, new, tau=tau: old + (1 - tau) * (new - old),
      target,
      {name: followed[name] for name in target},
    )
  return losses, online, target, stats, target_stats


@pytest.fixture(scope="module")
def ours():
  """Start, views, losses and end of three steps."""
  config = tiny.method_config(
    "byol",
    schedule__epochs=2,
    schedule__optimizer__weight_decay=DECAY,
  )
  experiment = tiny.build_method(config)
  assert experiment.total_steps == TOTAL
  start = jax.device_get(experiment.init_state())
  batches = tiny.batches(experiment, STEPS)
  rng = jax.random.wrap_key_data(start.rng)
  make = jax.jit(lambda b, k: experiment.step.preprocess(b, k, Axis()))
  views = [
    make(batch, step_lib.step_keys(rng, i)[0])
    for i, batch in enumerate(batches)
  ]
  metrics, end = tiny.run_steps(experiment, start, batches)
  return start, views, metrics, end


def compare(ours, mistake=""):
  start, views, metrics, end = ours
  expected = official_steps(start, views, mistake)
  losses, online, target, stats, target_stats = expected
  found = [x["loss"] for x in metrics]
  np.testing.assert_allclose(found, losses, rtol=2e-3)
  moved = lambda new, old: jax.tree.map(np.subtract, new, old)
  assert_near(
    moved(end.params, start.params), moved(online, start.params), 0.02
  )
  copies = {name: start.params[name] for name in target}
  assert_near(moved(end.aux["params"], copies), moved(target, copies), 0.02)
  assert_near(end.model_state, stats, 1e-2)
  assert_near(end.aux["model_state"], target_stats, 1e-2)


def test_three_steps_equal_the_official_algorithm(ours):
  compare(ours)
  start, _, metrics, _ = ours
  assert "predictor" not in start.aux["params"]
  # Its loss is 4 at first, of directions that have nothing in common.
  assert 0 < metrics[-1]["loss"] < 8
  similarity = (4 - metrics[0]["loss"]) / 4
  np.testing.assert_allclose(
    metrics[0]["positive_similarity"], similarity, atol=1e-6
  )


@pytest.mark.parametrize(
  "mistake",
  [
    "a predictor of the target",
    "the same view",
    "all trusted",
    "twice as many steps",
    "before the optimiser",
  ],
)
def test_a_known_mistake_is_seen(ours, mistake):
  with pytest.raises(AssertionError):
    compare(ours, mistake)


def test_other_widths_of_predictions_and_targets_are_refused():
  with pytest.raises(ConfigError, match=r"predictor.dims ends in 4, .* in 8"):
    tiny.build_method(tiny.method_config("byol", model__predictor__dims=(4,)))


@pytest.mark.slow
def test_a_vit_is_a_backbone_too():
  config = tiny.method_config("byol")
  with config.unlocked(), config.ignore_type():
    config.model.backbone = {
      "name": "vit",
      "variant": "tiny",
      "width": 32,
      "depth": 2,
      "heads": 2,
      "patch_size": 4,
      "image_size": 12,
      "drop_path": 0.1,
    }
  experiment = tiny.build_method(config, 2)
  batches = tiny.batches(experiment, 2)
  metrics, _ = tiny.run_steps(experiment, experiment.init_state(), batches)
  assert all(0 < x["loss"] < 8 for x in metrics)
