"""SimSiam against the official algorithm written out, and known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import step as step_lib
from sslx.axis import Axis
from sslx.config import ConfigError
from tests import naive, tiny
from tests.naive import assert_near, unit

# Two epochs of four steps each; six are taken.
STEPS, EPOCHS, EPOCH = 6, 2, 4
LR, DECAY = 2.0 * tiny.BATCH / 256, 0.05


# Mistakes in the loss; the others are in the update.
OF_LOSS = ("no last norm", "a gradient into the targets", "the same view")


@jax.jit
def gradient(params, views, made):
  """Of `main_simsiam.py`'s loss, with what BatchNorm is given.

  Args:
    params: of the encoder and the predictor.
    views: two.
    made: whether each mistake of `OF_LOSS` is made.
  """
  unnormed, open_targets, same = made

  def loss_of(params):
    z, p, seen = [], [], []
    for x in views:
      out, given = naive.siamese(x, params)
      given["projector"]["bn3"] = out
      z.append(jnp.where(unnormed, out, naive.batch_norm(out)))
      predicted, given["predictor"] = naive.head(z[-1], params["predictor"])
      p.append(predicted)
      seen.append(given)
    z = [jnp.where(open_targets, x, jax.lax.stop_gradient(x)) for x in z]
    z = [jnp.where(same, a, b) for a, b in zip(z, z[::-1], strict=True)]
    cosines = [
      jnp.mean(jnp.sum(unit(a) * unit(b), axis=1))
      for a, b in zip(p, z, strict=True)
    ]
    return -(cosines[0] + cosines[1]) * 0.5, seen

  return jax.value_and_grad(loss_of, has_aux=True)(params)


def official_steps(start, views, mistake=""):
  """`main_simsiam.py` with `--fix-pred-lr`, and torch's SGD.

  Returns:
    The losses, the parameters, and the running statistics.
  """
  made = np.array([mistake == name for name in OF_LOSS])
  params, stats = start.params, start.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  losses = []
  for step, pair in enumerate(views):
    (loss, seen), grads = jax.device_get(gradient(params, pair, made))
    losses.append(loss)
    for given in seen:
      stats = {name: naive.running(stats[name], x) for name, x in given.items()}
    done = (step if mistake == "a rate by steps" else step // EPOCH * EPOCH) / (
      EPOCHS * EPOCH
    )
    falling = LR * 0.5 * (1 + np.cos(np.pi * done))
    kept = falling if mistake == "a predictor that slows down" else LR
    spared = lambda p: p.ndim == 1 and mistake == "norms without decay"
    velocity = jax.tree.map(
      lambda v, g, p, spared=spared: (
        0.9 * v + g + (0 if spared(p) else DECAY * p)
      ),
      velocity,
      grads,
      params,
    )
    params = {
      name: jax.tree.map(
        lambda p, v, rate=kept if name == "predictor" else falling: (
          p - rate * v
        ),
        params[name],
        velocity[name],
      )
      for name in params
    }
  return losses, params, stats


@pytest.fixture(scope="module")
def ours():
  """Start, views, metrics and end of six steps."""
  config = tiny.method_config(
    "simsiam",
    schedule__epochs=EPOCHS,
    schedule__optimizer__lr=2.0,
    schedule__optimizer__weight_decay=DECAY,
  )
  experiment = tiny.build_method(config)
  start = jax.device_get(experiment.init_state())
  batches = tiny.batches(experiment, STEPS)
  rng = jax.random.wrap_key_data(start.rng)
  make = jax.jit(lambda b, k: experiment.step.preprocess(b, k, Axis()))
  views = [
    make(batch, step_lib.step_keys(rng, i)[0])
    for i, batch in enumerate(batches)
  ]
  return start, views, *tiny.run_steps(experiment, start, batches)


def compare(ours, mistake=""):
  start, views, metrics, end = ours
  losses, params, stats = official_steps(start, views, mistake)
  np.testing.assert_allclose([x["loss"] for x in metrics], losses, atol=1e-3)
  moved = lambda new: jax.tree.map(np.subtract, new, start.params)
  assert_near(moved(end.params), moved(params), 0.02)
  assert_near(end.model_state, stats, 1e-2)


def test_six_steps_equal_the_official_algorithm(ours):
  compare(ours)
  _, _, metrics, end = ours
  # The bias that the official code freezes before the last BatchNorm is not.
  assert "bias" not in end.params["projector"]["fc3"]
  assert "bias" in end.params["predictor"]["fc2"]
  assert all(-1 < x["loss"] < 1 for x in metrics)


@pytest.mark.parametrize(
  "mistake",
  [
    *OF_LOSS,
    "a rate by steps",
    "a predictor that slows down",
    "norms without decay",
  ],
)
def test_a_known_mistake_is_seen(ours, mistake):
  with pytest.raises(AssertionError):
    compare(ours, mistake)


def test_other_widths_of_predictions_and_targets_are_refused():
  with pytest.raises(ConfigError, match=r"predictor.dims ends in 4, .* in 8"):
    config = tiny.method_config("simsiam", model__predictor__dims=(4,))
    tiny.build_method(config)
