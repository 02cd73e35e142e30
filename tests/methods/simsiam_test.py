"""SimSiam against the official algorithm written out, and known mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx.config import ConfigError
from tests import naive, official, tiny
from tests.naive import unit

# Two epochs of four steps each; six are taken.
STEPS, EPOCHS, EPOCH = 6, 2, 4
LR, DECAY = 2.0 * tiny.BATCH / 256, 0.05


@naive.compiled
def gradient(params, views, mistake):
  """Of `main_simsiam.py`'s loss, with what BatchNorm is given."""

  def loss_of(params):
    z, p, seen = [], [], []
    for x in views:
      h, given = naive.convs(x, params["backbone"])
      out, last = naive.head(h, params["projector"])
      last["bn3"] = out
      z.append(out if mistake == "no last norm" else naive.batch_norm(out))
      predicted, of_predictor = naive.head(z[-1], params["predictor"])
      p.append(predicted)
      seen.append(
        {"backbone": given, "projector": last, "predictor": of_predictor}
      )
    if mistake != "a gradient into the targets":
      z = [jax.lax.stop_gradient(x) for x in z]
    if mistake != "the same view":
      z = z[::-1]
    cosines = [
      jnp.mean(jnp.sum(unit(a) * unit(b), axis=1))
      for a, b in zip(p, z, strict=True)
    ]
    return -(cosines[0] + cosines[1]) * 0.5, seen

  return jax.value_and_grad(loss_of, has_aux=True)(params)


def official_steps(taken, mistake=""):
  """`main_simsiam.py` with `--fix-pred-lr`, and torch's SGD."""
  params, stats = taken.start.params, taken.start.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  losses, rates, gradients = [], [], []

  def direction(g, p):
    spared = p.ndim == 1 and mistake == "norms without decay"
    return g if spared else g + DECAY * p

  for step, pair in enumerate(taken.views):
    (loss, seen), grads = gradient(params, pair, mistake)
    for given in seen:
      stats = naive.moments(stats, given)
    whole = step if mistake == "a rate by steps" else step // EPOCH * EPOCH
    falling = LR * naive.cosine(whole / (EPOCHS * EPOCH))
    kept = falling if mistake == "a predictor that slows down" else LR
    for name in params:
      rate = kept if name == "predictor" else falling
      new = naive.descend(
        params[name], velocity[name], grads[name], rate, direction
      )
      params = params | {name: new[0]}
      velocity = velocity | {name: new[1]}
    losses.append(loss)
    rates.append(falling)
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": stats,
  }


OFFICIAL = official.Case(
  "simsiam",
  "facebookresearch/simsiam: main_simsiam.py, simsiam/builder.py",
  lambda: tiny.method_config(
    "simsiam",
    schedule__epochs=EPOCHS,
    schedule__optimizer__lr=2.0,
    schedule__optimizer__weight_decay=DECAY,
  ),
  STEPS,
  official_steps,
  {
    "no last norm": "simsiam#40",
    "a gradient into the targets": "",
    "the same view": "",
    "a rate by steps": "",
    "a predictor that slows down": "simsiam#40",
    "norms without decay": "",
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_six_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found
  # The bias that the official code freezes before the last BatchNorm is not.
  assert "bias" not in taken.end.params["projector"]["fc3"]
  assert "bias" in taken.end.params["predictor"]["fc2"]
  assert all(-1 < x["loss"] < 1 for x in taken.metrics)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


def test_other_widths_of_predictions_and_targets_are_refused():
  with pytest.raises(ConfigError, match=r"predictor.dims ends in 4, .* in 8"):
    config = tiny.method_config("simsiam", model__predictor__dims=(4,))
    tiny.build_method(config)
