"""VICReg against `main_vicreg.py` of facebookresearch/vicreg@4e12602."""

import jax
import numpy as np
import pytest

from sslx.config import ConfigError
from sslx.methods.vicreg import VICReg
from sslx.models import heads
from tests import tiny
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
    parts = zip(np.split(x, slices), np.split(y, slices), strict=True)
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


def test_steps_are_the_official_ones_and_wrong_ones_are_found():
  experiment = tiny.build_method(tiny.method_config("vicreg"))
  start = jax.device_get(experiment.init_state())
  batches = tiny.batches(experiment, barlow.STEPS)
  found = tiny.run_steps(experiment, start, batches)
  peak = experiment.schedule.optimizer.lr * tiny.BATCH / 256
  official = barlow.Official(experiment, start, batches, official_loss)

  def steps(ratio=1.0, warmup=2):
    rate = lambda i: (
      peak * barlow.official_rate(i, experiment.total_steps, warmup)
    )
    return official.steps(rate, lambda i: ratio * rate(i))

  barlow.check_steps(start, found, steps())
  # The rate that Barlow Twins has for biases; another length of the warm-up.
  for wrong in ({"ratio": 0.024}, {"warmup": 3}):
    with pytest.raises(AssertionError):
      barlow.check_steps(start, found, steps(**wrong))


def test_negative_weights_are_refused():
  with pytest.raises(ConfigError, match="variance"):
    tiny.method_config("vicreg", model__variance=-1.0)
