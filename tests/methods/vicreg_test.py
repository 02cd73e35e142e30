"""VICReg against `main_vicreg.py` of facebookresearch/vicreg@4e12602."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from sslx.config import ConfigError
from sslx.methods.vicreg import VICReg
from sslx.models import heads
from tests import official, tiny
from tests.methods import barlow_twins_test as barlow

WEIGHTS = (25.0, 25.0, 1.0)


def official_loss(
  x, y, weights=WEIGHTS, ddof=1, root=1e-4, outside=0.0, half=0.5, slices=1
):
  """Of embeddings [b, d]; in numpy or jax.numpy. Other defaults are wrong.

  Args:
    x: of a view.
    y: of the other view.
    weights: `sim_coeff`, `std_coeff` and `cov_coeff`.
    ddof: of variances and covariances.
    root: added to the variance.
    outside: added to the standard deviation.
    half: factor of the variance terms.
    slices: devices with statistics of their own.
  """
  if slices > 1:
    parts = zip(jnp.split(x, slices), jnp.split(y, slices), strict=True)
    return sum(official_loss(*z, weights) for z in parts) / slices
  sim, std, cov = ((x - y) ** 2).mean(), 0.0, 0.0
  for z in (x, y):
    z = z - z.mean(0)
    hinge = 1 - (z.var(0, ddof=ddof) + root) ** 0.5 - outside
    std += (hinge * (hinge > 0)).mean() * half
    c = z.T @ z / (len(z) - ddof)
    cov += ((c**2).sum() - (c.diagonal() ** 2).sum()) / z.shape[1]
  return weights[0] * sim + weights[1] * std + weights[2] * cov


def test_loss_and_gradients_are_the_official_ones_of_the_global_batch():
  views = [2 * x for x in barlow.random_views(np.random.default_rng(0))]
  method = VICReg(backbone=tiny.Flat(), projector=heads.MLP((6,)))
  found = barlow.loss_and_gradients(method, views, 8)
  _, _, params, embed = found
  below = embed(params, views[0]).std(0) < 1
  assert below.any() and not below.all()  # Both sides of the hinge.
  barlow.check_loss(found, views, official_loss)
  wrong = [{"ddof": 0}, {"half": 1.0}, {"slices": 4}]
  wrong += [{"weights": (25, 25, 0.5)}, {"root": 0.0, "outside": 1e-2}]
  for change in wrong:
    with pytest.raises(AssertionError):
      barlow.check_loss(
        found, views, lambda *z, w=change: official_loss(*z, **w)
      )


# Mistakes in the loss.
OF_LOSS = {
  "a biased variance": {"ddof": 0},
  "the root's epsilon outside": {"root": 0.0, "outside": 1e-2},
  "both hinges in full": {"half": 1.0},
  "half of the covariances": {"weights": (25.0, 25.0, 0.5)},
  "each device's own statistics": {"slices": 4},
}


def reference(taken, mistake=""):
  peak = 2.0 * tiny.BATCH / 256
  loss = functools.partial(official_loss, **OF_LOSS.get(mistake, {}))
  warmup = 3 if mistake == "another warm-up" else 2
  total = taken.experiment.total_steps
  rate = lambda i: peak * barlow.official_rate(i, total, warmup)
  ratio = 0.024 if mistake == "Barlow Twins' rate of biases" else 1.0
  return barlow.official_steps(taken, loss, rate, lambda i: ratio * rate(i))


OFFICIAL = official.Case(
  "vicreg",
  "facebookresearch/vicreg@4e12602: main_vicreg.py",
  lambda: tiny.method_config("vicreg"),
  barlow.STEPS,
  reference,
  {
    **dict.fromkeys(OF_LOSS, ""),
    "Barlow Twins' rate of biases": "",
    "another warm-up": "",
  },
)


@pytest.fixture(scope="module")
def taken():
  return OFFICIAL.take()


def test_four_steps_equal_the_official_algorithm(taken):
  found = OFFICIAL.differences(taken)
  assert OFFICIAL.fits(found), found


@pytest.mark.slow
@pytest.mark.parametrize("mistake", OFFICIAL.mistakes)
def test_a_known_mistake_is_seen(taken, mistake):
  assert OFFICIAL.catches(OFFICIAL.differences(taken, mistake))


def test_negative_weights_are_refused():
  with pytest.raises(ConfigError, match="variance"):
    tiny.method_config("vicreg", model__variance=-1.0)
