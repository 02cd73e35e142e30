"""Barlow Twins against `main.py` of facebookresearch/barlowtwins@8e8d284."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.barlow_twins import BarlowTwins
from sslx.methods.run import Run
from sslx.models import heads
from sslx.parallel import Parallel, Partitioner
from tests import naive, official, tiny

LAMBDA = 0.3  # Large, so that the gradient tells what it weighs.


def official_loss(z1, z2, weight, ddof=0, slices=1, entries=1):
  """Of embeddings; in numpy or jax.numpy.

  Args:
    z1: [b, d], before `self.bn`.
    z2: the same of the other view.
    weight: lambda.
    ddof: of the variance; 1 is wrong.
    slices: devices with statistics and losses of their own; 2 are wrong.
    entries: what the sums are divided by; other than 1 is wrong.
  """
  if slices > 1:
    parts = zip(jnp.split(z1, slices), jnp.split(z2, slices), strict=True)
    return sum(official_loss(*z, weight) for z in parts) / slices
  bn = lambda z: (z - z.mean(0)) / (z.var(0, ddof=ddof) + 1e-5) ** 0.5
  return normalised_loss(bn(z1), bn(z2), weight) / entries


def normalised_loss(z1, z2, weight):
  """The rest of `forward`, after `self.bn`."""
  c = z1.T @ z2 / len(z1)
  on_diag = ((c.diagonal() - 1) ** 2).sum()
  off_diag = (c**2).sum() - (c.diagonal() ** 2).sum()
  return on_diag + weight * off_diag


def loss_and_gradients(method, views, devices):
  """Of a method over images that a linear layer and its head see, on devices.

  Returns:
    The loss, the gradients, and the function that makes embeddings of
    parameters and images in float64.
  """
  params, stats, aux = method.init(jax.random.key(0), {"views": views})

  def loss(params, views, axis):
    run = Run(
      method,
      params,
      stats,
      aux,
      {"views": tuple(views)},
      jax.random.key(0),
      jnp.int32(0),
      axis,
    )
    return axis.pmean(run.loss()[0])

  mesh = Partitioner.create(Parallel(), jax.devices()[:devices]).mesh
  sharded = jax.shard_map(
    lambda params, views: loss(params, views, Axis("data")),
    mesh=mesh,
    in_specs=(P(), P("data")),
    out_specs=P(),
  )
  value, gradients = jax.jit(jax.value_and_grad(sharded))(params, views)

  def embed(params, x):
    h = (
      np.float64(x).reshape(len(x), -1)
      @ params["backbone"]["Dense_0"]["kernel"]
    )
    return h @ params["projector"]["fc1"]["kernel"]

  return value, gradients, jax.tree.map(np.float64, params), embed


def check_loss(found, views, official):
  """Compares the loss, and gradients with finite differences."""
  value, gradients, params, embed = found
  at = lambda params: official(*(embed(params, x) for x in views))
  np.testing.assert_allclose(value, at(params), rtol=1e-4)
  rng, step = np.random.default_rng(0), 1e-5
  for name, layer in (("backbone", "Dense_0"), ("projector", "fc1")):
    slopes = []
    for _ in range(5):
      kernel = params[name][layer]["kernel"]
      index = tuple(int(rng.integers(n)) for n in kernel.shape)
      slope = 0.0
      for sign in (1, -1):
        kernel[index] += sign * step
        slope += sign * at(params) / (2 * step)
        kernel[index] -= sign * step
      slopes.append((gradients[name][layer]["kernel"][index], slope))
    np.testing.assert_allclose(*np.transpose(slopes), rtol=5e-3, atol=1e-4)


def random_views(rng, b=16):
  """Two views that have something in common."""
  image = rng.normal(size=(b, 2, 2, 3))
  noise = lambda: rng.normal(size=image.shape)
  return tuple(np.float32(image + 0.5 * noise()) for _ in range(2))


def test_loss_and_gradients_are_the_official_ones_of_the_global_batch():
  views = random_views(np.random.default_rng(0))
  method = BarlowTwins(
    backbone=tiny.Flat(),
    projector=heads.MLP((6,), last_norm="plain"),
    redundancy_weight=LAMBDA,
  )
  found = loss_and_gradients(method, views, 8)
  check_loss(found, views, lambda *z: official_loss(*z, LAMBDA))
  for wrong in ({"ddof": 1}, {"slices": 4}, {"entries": 36}):
    with pytest.raises(AssertionError):
      check_loss(
        found, views, lambda *z, w=wrong: official_loss(*z, LAMBDA, **w)
      )
  # All-reduced outside of the gradient, by 8 processes whose gradients are
  # averaged.
  eighth = (found[0], jax.tree.map(lambda g: g / 8, found[1]), *found[2:])
  with pytest.raises(AssertionError):
    check_loss(eighth, views, lambda *z: official_loss(*z, LAMBDA))


def official_steps(taken, loss, weights, biases):
  """`main.py`, which that of VICReg repeats.

  Args:
    taken: our updates.
    loss: of the outputs of the head for both views, before `self.bn`.
    weights: the rate of weights, by step.
    biases: the rate of biases and norms, by step.
  """
  params, stats = taken.start.params, taken.start.model_state
  velocity = jax.tree.map(np.zeros_like, params)
  direction = lambda g, p: naive.lars(g, p, 1e-6)  # With the decay.
  losses, rates, gradients = [], [], []

  def loss_of(params, views):
    z, seen = zip(*[naive.siamese(x, params) for x in views], strict=True)
    return loss(*z), (z, seen)

  gradient = naive.gradient(loss_of)
  for i, views in enumerate(taken.views):
    (value, (z, seen)), grads = gradient(params, views)
    for out, given in zip(z, seen, strict=True):
      if "bn2" in stats["projector"]:
        given["projector"]["bn2"] = out
      stats = naive.moments(stats, given)
    params, velocity = naive.descend(
      params, velocity, grads, weights(i), direction, biases(i)
    )
    losses.append(value)
    rates.append(weights(i))
    gradients.append(grads)
  return {
    "loss": losses,
    "rate": rates,
    "gradient": gradients,
    "parameters": params,
    "statistics": stats,
  }


def official_rate(step, steps, warmup):
  """`adjust_learning_rate` over the peak rate."""
  if step < warmup:
    return step / warmup
  q = naive.cosine((step - warmup) / (steps - warmup))
  return q + 0.001 * (1 - q)


STEPS = 4
# Mistakes in the loss.
OF_LOSS = {
  "an unbiased variance": {"ddof": 1},
  "each device's own correlation": {"slices": 8},
  "a mean over components": {"entries": 64},
}


def reference(taken, mistake=""):
  peak = 40.0 * tiny.BATCH / 256
  change = OF_LOSS.get(mistake, {})

  def loss(z1, z2):
    value = official_loss(z1, z2, 0.0051, **change)
    if mistake == "the gradient of one of 8 devices":
      return value / 8 + jax.lax.stop_gradient(value * 7 / 8)
    return value

  total = taken.experiment.total_steps
  rate = lambda i: peak * official_rate(i, total, 2)
  ratio = 1.0 if mistake == "one rate for all" else 0.0048 / 0.2
  return official_steps(taken, loss, rate, lambda i: ratio * rate(i))


OFFICIAL = official.Case(
  "barlow_twins",
  "facebookresearch/barlowtwins@8e8d284: main.py",
  lambda: tiny.method_config("barlow_twins"),
  STEPS,
  reference,
  {
    "an unbiased variance": "",
    "each device's own correlation": "",
    "a mean over components": "",
    "the gradient of one of 8 devices": "the official code; lightly#1977",
    "one rate for all": "",
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


def test_embeddings_that_are_not_normalised_are_refused():
  with pytest.raises(ConfigError, match=r"projector.last_norm is 'none'"):
    tiny.method_config("barlow_twins", model__projector__last_norm="none")
