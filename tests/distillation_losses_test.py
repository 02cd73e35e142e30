"""The losses of DINO, iBOT and DINOv2 against numpy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sslx import losses, monitors
from sslx.axis import Axis
from sslx.parallel import Parallel, Partitioner


def probabilities(rng, *shape):
  x = np.exp(3 * rng.normal(size=shape))
  return x / x.sum(-1, keepdims=True)


@pytest.mark.parametrize("views", [2, 5])
def test_cross_views_is_a_mean_over_pairs_of_different_views(views):
  rng = np.random.default_rng(0)
  targets = probabilities(rng, 6, 2, 7)
  p = probabilities(rng, 6, views, 7)
  pairs = [
    -np.mean(np.sum(targets[:, i] * np.log(p[:, v]), -1))
    for i in range(2)
    for v in range(views)
    if v != i
  ]
  assert len(pairs) == 2 * views - 2  # 18 with eight small crops.
  found = losses.cross_views(jnp.float32(targets), jnp.float32(np.log(p)))
  np.testing.assert_allclose(found, np.mean(pairs), rtol=1e-5)


def test_masked_patches_is_a_mean_of_means():
  rng = np.random.default_rng(0)
  targets, p = probabilities(rng, 2, 4, 9, 5)
  counts = (0, 1, 3, 9)
  weights = np.zeros((4, 9))
  means = []
  for row, n in enumerate(counts):
    weights[row, :n] = 1 / max(n, 1)
    entropies = [-targets[row, i] @ np.log(p[row, i]) for i in range(n)]
    means.append(np.mean(entropies) if n else 0)
  found = losses.masked_patches(
    jnp.float32(targets), jnp.float32(np.log(p)), jnp.float32(weights)
  )
  np.testing.assert_allclose(found, np.mean(means), rtol=1e-5)


def koleo(x, groups):
  """DINOv2's, a group at a time, in float64; and the mean distance."""
  x = np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True)
  terms, distances = [], []
  for group in np.split(x, groups):
    dots = group @ group.T
    np.fill_diagonal(dots, -1)
    for row, nearest in zip(group, group[dots.argmax(1)], strict=True):
      distance = np.linalg.norm(row - nearest + 1e-8)
      distances.append(distance)
      terms.append(-np.log(distance + 1e-8))
  return np.mean(terms), np.mean(distances)


def of_devices(x, groups, devices):
  """Loss, distance and gradient."""
  if not devices:
    loss = lambda x: losses.koleo(x, groups, Axis())
  else:
    axis = Axis("data")
    loss = jax.shard_map(
      lambda x: axis.pmean(losses.koleo(x, groups, axis)),
      mesh=Partitioner.create(Parallel(), jax.devices()[:devices]).mesh,
      in_specs=P("data"),
      out_specs=P(),
    )
  (value, distance), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
    x
  )
  return value, distance, gradient


@pytest.mark.parametrize("groups", [1, 4])
def test_koleo_and_its_gradient_are_those_of_its_groups(groups):
  x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
  expected = koleo(x, groups)
  gradients = []
  for devices in (0, 2, 8):
    *found, gradient = of_devices(x, groups, devices)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradients.append(gradient)
  for index in [(0, 0), (7, 3), (15, 5)]:
    shift = np.zeros_like(x, np.float64)
    shift[index] = 1e-5
    slope = koleo(x + shift, groups)[0] - koleo(x - shift, groups)[0]
    for gradient in gradients:
      np.testing.assert_allclose(
        gradient[index], slope / 2e-5, rtol=1e-3, atol=1e-6
      )


def test_koleo_of_groups_is_not_that_of_the_batch():
  x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
  whole, parts = (losses.koleo(x, n, Axis())[0] for n in (1, 4))
  assert whole - parts > 0.1


def test_koleo_of_equal_rows_is_finite():
  value, _, gradient = of_devices(np.ones((4, 3), np.float32), 1, 0)
  assert 10 < value < 40 and np.isfinite(gradient).all()


def test_the_parts_of_a_cross_entropy():
  targets = np.array([[1.0, 0, 0, 0], [0.25] * 4])
  p = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]])
  cross = -np.mean(np.sum(targets * np.log(p), -1))
  found = monitors.distillation(jnp.float32(cross), jnp.float32(targets))
  np.testing.assert_allclose(found["teacher_entropy"], 0.5, rtol=1e-6)
  divergence = (-np.log(0.7) - np.log(4) - np.mean(np.log(p[1]))) / 2
  np.testing.assert_allclose(found["teacher_kl"], divergence, rtol=1e-5)
