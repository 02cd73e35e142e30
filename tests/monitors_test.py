"""Collapse monitors against numpy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sslx import monitors
from sslx.axis import Axis
from sslx.parallel import Parallel, Partitioner

ROWS, DIM, BATCH = 300, 20, 64


def mesh_of(devices):
  return Partitioner.create(Parallel(), jax.devices()[:devices]).mesh


def spread(x):
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  return np.std(x, axis=0).mean() * np.sqrt(x.shape[1])


@pytest.mark.parametrize("devices", [0, 2, 8])
def test_feature_std_equals_numpy_in_both_views(devices):
  rng = np.random.default_rng(0)
  # Sorted: the shards differ, so a mean of per-device values would not do.
  x = np.sort(rng.normal(size=(64, DIM)), axis=0) + 0.5
  if devices:
    measure = jax.shard_map(
      lambda x: monitors.feature_std(x, Axis("data")),
      mesh=mesh_of(devices),
      in_specs=P("data"),
      out_specs=P(),
    )
  else:
    measure = lambda x: monitors.feature_std(x, Axis())
  found = jax.jit(measure)(x.astype(np.float32))
  np.testing.assert_allclose(found, spread(x), rtol=1e-5)


def test_feature_std_limits():
  noise = np.random.default_rng(0).normal(size=(4096, 32)).astype(np.float32)
  measure = lambda x: float(monitors.feature_std(x, Axis()))
  assert measure(7 * noise) == pytest.approx(1, abs=0.02)
  assert measure(np.tile(noise[:1], (64, 1))) == pytest.approx(0, abs=1e-6)
  assert measure(np.zeros((4, 8), np.float32)) == 0


def test_token_std_is_of_the_tokens_of_one_image():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, 40, DIM)) + rng.normal(size=(5, 1, DIM))
  unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
  expected = np.sqrt(np.var(unit, axis=1).sum(-1)).mean()
  np.testing.assert_allclose(monitors.token_std(x), expected, rtol=1e-5)
  # Images that differ do not hide tokens that are alike.
  alike = np.repeat(x[:, :1], 40, axis=1)
  assert monitors.token_std(alike) < 1e-3


def effective_rank(x, devices):
  """The function under test, on rows padded with loud ones."""
  mesh = mesh_of(devices)
  pad = -len(x) % BATCH
  labels = np.concatenate([np.zeros(len(x)), np.full(pad, -1)])
  x = np.concatenate([x, np.full((pad, x.shape[1]), np.nan)])
  arrays = (
    x.reshape(-1, BATCH, x.shape[1]).astype(np.float32),
    labels.reshape(-1, BATCH).astype(np.int32),
  )
  arrays = jax.device_put(arrays, NamedSharding(mesh, P(None, "data")))
  return monitors.effective_rank(*arrays, mesh=mesh)


def rank_me(x):
  """Equation 1 of RankMe, from the singular values themselves."""
  share = np.linalg.svd(x, compute_uv=False)
  share = share / share.sum()
  share = share[share > 1e-9]
  return np.exp(-np.sum(share * np.log(share)))


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_effective_rank_equals_svd(devices, shift):
  rng = np.random.default_rng(1)
  decay = 0.8 ** np.arange(DIM)
  x = rng.normal(size=(ROWS, DIM)) * decay + shift
  assert effective_rank(x, devices) == pytest.approx(rank_me(x), rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 100.0])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_effective_rank_of_collapsed_features(rank, shift):
  """Empty dimensions count for nothing, whatever float32 leaves in them."""
  rng = np.random.default_rng(2)
  basis = np.linalg.qr(rng.normal(size=(128, 128)))[0]
  x = rng.normal(size=(ROWS, rank)) @ basis[:rank]
  if not rank and not shift:
    x += basis[:1]  # one point, but not the origin
  x = x + shift * basis[-1]
  # The reference in float64 of the very float32 values, less their rounding.
  values = np.linalg.svd(x, compute_uv=False)[: rank + 1]
  values = values[values > 1e-9]
  share = values / values.sum()
  expected = np.exp(-np.sum(share * np.log(share)))
  assert effective_rank(x, 2) == pytest.approx(expected, rel=1e-3)


def test_effective_rank_of_orthogonal_rows_is_their_number():
  x = np.tile(np.eye(DIM)[:5], (60, 1))
  assert effective_rank(x, 2) == pytest.approx(5, rel=1e-5)


def test_effective_rank_of_no_rows_is_refused():
  arrays = np.zeros((1, 8, 3), np.float32), np.full((1, 8), -1, np.int32)
  with pytest.raises(ValueError, match="8"):
    monitors.effective_rank(*arrays, mesh=mesh_of(1))


def random_views(devices):
  """Views f32[3, 16, 5, DIM] of 48 images; the second axis is sharded."""
  rng = np.random.default_rng(5)
  images = rng.normal(size=(3, 16, 1, DIM)) * 0.9 ** np.arange(DIM) + 2
  views = images + 0.3 * rng.normal(size=(3, 16, 5, DIM))
  mesh = mesh_of(devices)
  placed = jax.device_put(
    views.astype(np.float32), NamedSharding(mesh, P(None, "data"))
  )
  return views.reshape(48, 5, DIM), placed, mesh


@pytest.mark.parametrize("devices", [1, 8])
def test_lidar_equals_numpy(devices):
  views, placed, mesh = random_views(devices)
  between, within = np.zeros((DIM, DIM)), 0.01 * np.eye(DIM)
  for image in views:
    mean = image.mean(0)
    offset = mean - views.mean((0, 1))
    between += np.outer(offset, offset) / 48
    for view in image:
      within += np.outer(view - mean, view - mean) / (48 * 5)
  # The eigenvalues of W^-1 B are those of W^-1/2 B W^-1/2.
  values = np.linalg.eigvals(np.linalg.solve(within, between)).real
  share = values / values.sum()
  expected = np.exp(-np.sum(share * np.log(share)))
  found = monitors.lidar(placed, mesh=mesh, delta=0.01)
  assert found == pytest.approx(expected, rel=1e-4)
  assert 2 < found < DIM


@pytest.mark.parametrize("devices", [1, 8])
def test_alignment_and_uniformity_equal_numpy(devices):
  views, placed, mesh = random_views(devices)
  x = views / np.linalg.norm(views, axis=-1, keepdims=True)
  distances = [
    np.sum((x[:, i] - x[:, j]) ** 2, axis=-1)
    for i in range(5)
    for j in range(i)
  ]
  assert monitors.alignment(placed, mesh=mesh) == pytest.approx(
    np.mean(distances), rel=1e-5
  )
  potentials = [
    np.exp(-2 * np.sum((x[i, 0] - x[j, 0]) ** 2))
    for i in range(48)
    for j in range(i)
  ]
  found = monitors.uniformity(placed[:, :, 0], mesh=mesh)
  assert found == pytest.approx(np.log(np.mean(potentials)), rel=1e-5)


def test_usage_of_even_and_of_collapsed_codes():
  even = jnp.repeat(jnp.eye(4), 3, axis=0)
  one = jnp.zeros((12, 4)).at[:, 2].set(1)
  half = jnp.repeat(jnp.eye(4)[:2], 6, axis=0)
  for codes, entropy, marginal in ((even, 1, 1), (one, 0, 4), (half, 0.5, 2)):
    found = monitors.code_usage(codes, Axis())
    np.testing.assert_allclose(
      found["prototype_entropy"], entropy, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(found["sinkhorn_marginal"], marginal, rtol=1e-6)
