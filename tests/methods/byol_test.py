"""BYOL against the official algorithm written out, and its known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.config import ConfigError
from tests import naive, official, tiny
from tests.naive import unit

STEPS, TOTAL = 3, 8
LR, DECAY, BASE_EMA = 50 * tiny.BATCH / 256, 1e-3, 0.8


project = naive.compiled(naive.siamese)
predict = naive.compiled(naive.head)


@naive.compiled
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


def official_steps(taken, mistake=""):
  """`byol_experiment.py` and its optimizer and schedules, step by step."""
  start = taken.start
  online, target = start.params, start.aux["params"]
  stats, target_stats = start.model_state, start.aux["model_state"]
  velocity = jax.tree.map(np.zeros_like, online)
  spare = mistake != "trust of biases and norms"
  direction = lambda g, p: naive.lars(g, p, DECAY, spare)
  losses, rates, gradients = [], [], []
  for step, pair in enumerate(taken.views):
    projections = []
    for x in pair:
      z, given = project(x, target)
      target_stats = naive.moments(target_stats, given)
      if mistake == "a predictor of the target":
        z, _ = predict(z, online["predictor"])
      projections.append(z)
    if mistake != "the same view":
      projections = projections[::-1]
    (loss, seen), grads = gradient(online, pair, projections)
    for given in seen:
      stats = naive.moments(stats, given)

    before, rate = online, LR * naive.cosine(step / TOTAL)
    online, velocity = naive.descend(online, velocity, grads, rate, direction)
    # Two micro-batches, each counted as a step.
    count = 2 * step if mistake == "twice as many steps" else step
    tau = 1 - (1 - BASE_EMA) * naive.cosine(count / TOTAL)
    followed = before if mistake == "before the optimiser" else online
    target = naive.follow(
      target, {name: followed[name] for name in target}, tau
    )
    losses.append(loss)
    rates.append(rate)
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": online,
    "statistics": stats,
    "teacher": target,
    "teacher's statistics": target_stats,
  }


OFFICIAL = official.Case(
  "byol",
  "google-deepmind/deepmind-research: byol/byol_experiment.py,"
  " byol/utils/optimizers.py and schedules.py",
  lambda: tiny.method_config(
    "byol",
    schedule__epochs=2,
    schedule__optimizer__lr=50.0,
    schedule__optimizer__weight_decay=DECAY,
  ),
  STEPS,
  official_steps,
  {
    "a predictor of the target": "",
    "the same view": "",
    "trust of biases and norms": "",
    "twice as many steps": "solo-learn#248, #286",
    "before the optimiser": "",
  },
  accepted={"gradient": 1e-3, "parameters": 3e-3, "teacher": 3e-3},
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_three_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found
  assert taken.experiment.total_steps == TOTAL
  assert "predictor" not in taken.start.aux["params"]
  # Its loss is 4 at first, of directions that have nothing in common.
  first, *_, last = taken.metrics
  assert 0 < last["loss"] < 8
  similarity = (4 - first["loss"]) / 4
  np.testing.assert_allclose(
    first["positive_similarity"], similarity, atol=1e-6
  )


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


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
