"""Losses against numpy, written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sslx import losses
from sslx.axis import Axis
from sslx.parallel import Parallel, Partitioner
from tests import naive


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
  """Matches finite differences: it is not divided by the number of devices."""
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


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_is_a_cross_entropy_over_positive_and_queue(temperature):
  rng = np.random.default_rng(0)
  q, k, queue = (
    x / np.linalg.norm(x, axis=1, keepdims=True)
    for x in (rng.normal(size=(n, 4)) for n in (6, 6, 9))
  )
  k += 0.5 * q
  k /= np.linalg.norm(k, axis=1, keepdims=True)
  logits = np.concatenate([(q * k).sum(1)[:, None], q @ queue.T], axis=1)
  softmax = np.exp(logits / temperature)
  softmax /= softmax.sum(axis=1, keepdims=True)
  f32 = np.float32
  loss, accuracy = losses.info_nce(
    f32(q), f32((q * k).sum(1)), f32(queue), temperature
  )
  np.testing.assert_allclose(loss, -np.log(softmax[:, 0]).mean(), rtol=1e-5)
  correct = (logits.argmax(axis=1) == 0).mean()
  assert 0 < correct < 1
  np.testing.assert_allclose(accuracy, correct, rtol=1e-6)


def sinkhorn(scores, past, devices, iterations=3):
  """Codes of ours, in the per-device view; the global one for 0 devices."""
  if not devices:
    return losses.sinkhorn(scores, past, iterations, Axis())
  mesh = Partitioner.create(Parallel(), jax.devices()[:devices]).mesh
  return jax.jit(
    jax.shard_map(
      lambda s, p: losses.sinkhorn(s, p, iterations, Axis("data")),
      mesh=mesh,
      in_specs=(P("data"), P("data")),
      out_specs=P("data"),
    )
  )(scores, past)


def scores_of(rows, seed=0):
  """Cosines over an epsilon of 0.05, for seven prototypes."""
  rng = np.random.default_rng(seed)
  x, prototypes = rng.normal(size=(rows, 5)), rng.normal(size=(7, 5))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  return np.float32(unit(x) @ unit(prototypes).T / 0.05)


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("past", [0, 24])
@pytest.mark.parametrize("devices", [0, 1, 8])
def test_sinkhorn_is_the_official_one_over_the_global_batch(
  devices, past, iterations
):
  scores = scores_of(16 + past)
  found = sinkhorn(
    scores[:16], scores[16:] if past else None, devices, iterations
  )
  expected = naive.sinkhorn(scores, iterations)[:16]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
  # With sums over the samples of each of 8 processes they are others.
  alone = [naive.sinkhorn(s, iterations) for s in np.split(scores, 8)]
  assert abs(np.concatenate(alone)[:16] - expected).max() > 0.1


@pytest.mark.parametrize("devices", [1, 8])
def test_sinkhorn_marginals_are_equal_shares(devices):
  codes = np.asarray(sinkhorn(scores_of(64), None, devices, iterations=100))
  np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(codes.sum(axis=0), 64 / 7, rtol=1e-3)


def test_sinkhorn_leaves_out_rows_that_are_no_sample():
  scores, empty = scores_of(16), np.full((24, 7), -np.inf, np.float32)
  for devices in (0, 8):
    found = sinkhorn(scores, empty, devices)
    np.testing.assert_allclose(
      found, naive.sinkhorn(scores, 3), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_sinkhorn_of_scores_whose_exponentials_overflow_is_finite(scale):
  """exp(12) is above float16, exp(89) above float32."""
  scores = scores_of(16) * scale / 20
  assert scores.max() > 89
  codes = np.asarray(sinkhorn(scores, scores_of(8, seed=1), 8))
  assert np.isfinite(codes).all()
  np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-5)
  assert len(set(codes.argmax(axis=1))) > 1


def test_sinkhorn_of_scores_in_float16_overflows_there_but_not_here():
  scores = np.float16(scores_of(16))
  with np.errstate(over="ignore"):
    assert np.isinf(np.exp(scores)).any()
  np.testing.assert_allclose(
    sinkhorn(np.float32(scores), None, 0),
    naive.sinkhorn(scores, 3),
    rtol=1e-4,
    atol=1e-7,
  )


def test_cosine_and_its_gradient_equal_their_formulas():
  rng = np.random.default_rng(0)
  p, z = rng.normal(size=(2, 6, 5))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  value = lambda p: np.mean(np.sum(unit(p) * unit(z), axis=1))
  found, (to_p, to_z) = jax.value_and_grad(losses.cosine, argnums=(0, 1))(
    jnp.float32(p), jnp.float32(z)
  )
  np.testing.assert_allclose(found, value(p), rtol=1e-5)
  assert not np.any(to_z)
  cosines = np.sum(unit(p) * unit(z), axis=1, keepdims=True)
  lengths = np.linalg.norm(p, axis=1, keepdims=True)
  by_formula = (unit(z) - cosines * unit(p)) / lengths / len(p)
  np.testing.assert_allclose(to_p, by_formula, rtol=1e-4, atol=1e-6)
  differences = np.zeros_like(p)
  for i in np.ndindex(p.shape):
    shift = np.zeros_like(p)
    shift[i] = 1e-5
    differences[i] = (value(p + shift) - value(p - shift)) / 2e-5
  np.testing.assert_allclose(to_p, differences, rtol=1e-3, atol=1e-6)


def test_smooth_l1_and_its_gradient_equal_their_formulas():
  x = np.array([-3.0, -1.0, -0.4, 0.0, 0.3, 1.0, 2.5])
  found, slope = jax.vmap(jax.value_and_grad(losses.smooth_l1))(
    jnp.float32(x + 5), jnp.full(7, 5.0)
  )
  expected = [2.5, 0.5, 0.08, 0, 0.045, 0.5, 2]
  np.testing.assert_allclose(found, expected, atol=1e-6)
  np.testing.assert_allclose(slope, np.clip(x, -1, 1), atol=1e-6)
