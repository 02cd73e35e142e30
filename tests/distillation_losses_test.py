"""The losses of DINO and iBOT against numpy, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from sslx import losses, monitors


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


def test_the_parts_of_a_cross_entropy():
  targets = np.array([[1.0, 0, 0, 0], [0.25] * 4])
  p = np.array([[0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]])
  cross = -np.mean(np.sum(targets * np.log(p), -1))
  found = monitors.distillation(jnp.float32(cross), jnp.float32(targets))
  np.testing.assert_allclose(found["teacher_entropy"], 0.5, rtol=1e-6)
  divergence = (-np.log(0.7) - np.log(4) - np.mean(np.log(p[1]))) / 2
  np.testing.assert_allclose(found["teacher_kl"], divergence, rtol=1e-5)
