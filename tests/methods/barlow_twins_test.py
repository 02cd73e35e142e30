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
from sslx.step import step_keys
from tests import naive, tiny

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
    parts = zip(np.split(z1, slices), np.split(z2, slices), strict=True)
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


def head_of(params, stats, x):
  """Linear layers, BatchNorm where there is one, and what it keeps."""
  kept, depth = {}, sum(name.startswith("fc") for name in params)
  for i in range(1, depth + 1):
    x = x @ params[f"fc{i}"]["kernel"]
    if f"bn{i}" in stats:
      new = {"mean": x.mean(0), "var": x.var(0, ddof=1)}
      kept[f"bn{i}"] = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, stats[f"bn{i}"], new
      )
      x = naive.batch_norm(x, params.get(f"bn{i}"))
    x = jnp.maximum(x, 0) if i < depth else x
  return x, kept


class Official:
  """`main.py`, which that of VICReg repeats; the backbone is ours."""

  def __init__(self, experiment, state, batches, loss):
    """Prepares the views.

    Args:
      experiment: on one device.
      state: where to start.
      batches: one for each step.
      loss: of the outputs of the head for both views.
    """
    self.start, self.loss = state, loss
    self.backbone = experiment.step.method.backbone
    rng = jax.random.wrap_key_data(state.rng)
    make = jax.jit(lambda b, k: experiment.step.preprocess(b, k, Axis()))
    keys = (step_keys(rng, i)[0] for i in range(len(batches)))
    self.views = [make(*x) for x in zip(batches, keys, strict=True)]
    self.gradients = jax.jit(jax.value_and_grad(self.forward, has_aux=True))

  def forward(self, params, stats, views):
    kept, z = dict(stats), []
    for x in views:
      variables = {
        "params": params["backbone"],
        "batch_stats": kept["backbone"],
      }
      h, new = self.backbone.apply(
        variables, x, train=True, mutable="batch_stats"
      )
      kept["backbone"] = new["batch_stats"]
      y, kept["projector"] = head_of(params["projector"], kept["projector"], h)
      z.append(y)
    return self.loss(*z), kept

  def steps(self, weights, biases):
    """Yields loss, parameters and statistics, given the rates by step."""
    params, stats = self.start.params, self.start.model_state
    mu = jax.tree.map(np.zeros_like, params)
    for i, views in enumerate(self.views):
      (value, stats), grads = self.gradients(params, stats, views)
      params, mu = lars(params, grads, mu, weights(i), biases(i))
      yield value, params, stats


def lars(params, grads, mu, weights, biases):
  """`LARS.step`, of numpy arrays; the decay is 1e-6, eta 0.001."""

  def direction(p, g):
    if p.ndim == 1:
      return g
    g = g + 1e-6 * p
    return g * (0.001 * np.linalg.norm(p) / np.linalg.norm(g))

  params, grads = jax.device_get((params, grads))
  mu = jax.tree.map(
    lambda m, p, g: 0.9 * m + direction(p, g), mu, params, grads
  )
  rate = lambda p: biases if p.ndim == 1 else weights
  return jax.tree.map(lambda p, m: p - rate(p) * m, params, mu), mu


def official_rate(step, steps, warmup):
  """`adjust_learning_rate` over the peak rate."""
  if step < warmup:
    return step / warmup
  q = 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))
  return q + 0.001 * (1 - q)


def check_steps(start, found, official):
  """Compares losses, updates of parameters and statistics of each step."""
  (metrics, state), steps = found, list(official)
  losses = [value for value, _, _ in steps]
  np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-3)
  moved = lambda new: jax.tree.map(jnp.subtract, new, start.params)
  naive.assert_near(moved(state.params), moved(steps[-1][1]), 1e-2)
  tiny.assert_close(state.model_state, steps[-1][2], 1e-3)


STEPS = 4


def test_steps_are_the_official_ones_and_wrong_ones_are_found():
  alone = tiny.build_method(tiny.method_config("barlow_twins"))
  config = tiny.method_config("barlow_twins", runtime__parallel__mode="pmap")
  many = tiny.build_method(config, 8)
  start = jax.device_get(alone.init_state())
  found = tiny.run_steps(many, start, tiny.batches(many, STEPS))
  peak = alone.schedule.optimizer.lr * tiny.BATCH / 256

  official = Official(
    alone,
    start,
    tiny.batches(alone, STEPS),
    lambda z1, z2: normalised_loss(z1, z2, 0.0051),
  )
  rate = lambda i: peak * official_rate(i, alone.total_steps, 2)
  steps = lambda ratio: official.steps(rate, lambda i: ratio * rate(i))
  check_steps(start, found, steps(0.0048 / 0.2))
  # One rate for all; and the gradient of one of 8 devices, which LARS hides.
  for wrong in (1.0, 0.024 / 8):
    with pytest.raises(AssertionError):
      check_steps(start, found, steps(wrong))


def test_embeddings_that_are_not_normalised_are_refused():
  with pytest.raises(ConfigError, match=r"projector.last_norm is 'none'"):
    tiny.method_config("barlow_twins", model__projector__last_norm="none")
