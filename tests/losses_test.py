"""Losses against numpy, written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sslx import losses
from sslx.parallel import Axis, Parallel, Partitioner


def nt_xent(z1, z2, temperature):
  """Equation 1 of the SimCLR paper, one pair at a time, in float64."""
  z = np.concatenate([z1, z2]).astype(np.float64)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  n = len(z1)
  total, correct = 0.0, 0
  for i in range(2 * n):
    j = (i + n) % (2 * n)
    others = [k for k in range(2 * n) if k != i]
    similarity = np.array([z[i] @ z[k] / temperature for k in others])
    total += np.log(np.exp(similarity).sum()) - z[i] @ z[j] / temperature
    correct += others[int(similarity.argmax())] == j
  return total / (2 * n), correct / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("n", [2, 8, 24])
def test_nt_xent_is_equation_1(n, temperature):
  rng = np.random.default_rng(n)
  z = rng.normal(size=(n, 2, 16)).astype(np.float32)
  z[:, 1] += z[:, 0]
  loss, accuracy = losses.nt_xent(z, temperature, Axis())
  expected, expected_accuracy = nt_xent(z[:, 0], z[:, 1], temperature)
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(accuracy, expected_accuracy, rtol=1e-6)


@pytest.mark.parametrize("devices", [2, 8])
def test_nt_xent_gradient_is_that_of_the_global_batch(devices):
  """Not 1 / devices of it (pitfall 2), against finite differences."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(8, 2, 4)).astype(np.float32)
  mesh = Partitioner.create(Parallel(), jax.devices()[:devices]).mesh
  per_device = jax.shard_map(
    lambda z: Axis("data").pmean(losses.nt_xent(z, 0.5, Axis("data"))[0]),
    mesh=mesh,
    in_specs=P("data"),
    out_specs=P(),
  )
  gradient = jax.jit(jax.grad(per_device))(z)
  step = 1e-5
  for index in [(0, 0, 0), (3, 1, 2), (7, 0, 3)]:
    up, down = z.astype(np.float64), z.astype(np.float64)
    up[index] += step
    down[index] -= step
    slope = (
      nt_xent(up[:, 0], up[:, 1], 0.5)[0]
      - nt_xent(down[:, 0], down[:, 1], 0.5)[0]
    ) / (2 * step)
    np.testing.assert_allclose(gradient[index], slope, rtol=1e-3, atol=1e-6)


def test_l2_normalize_of_zero_has_no_nan():
  x = jnp.zeros((1, 3))
  gradient = jax.grad(lambda x: losses.l2_normalize(x).sum())(x)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(losses.l2_normalize(x), 0)
  np.testing.assert_allclose(
    losses.l2_normalize(jnp.array([[3.0, 4.0]])), [[0.6, 0.8]], rtol=1e-6
  )
