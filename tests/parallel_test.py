"""Shardings, and batches that cannot be spread."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from sslx.config import ConfigError
from sslx.parallel import Axis, Parallel, Partitioner


@pytest.mark.parametrize(
  ("devices", "batch", "groups", "message"),
  [
    (8, 500, 1, "batch_size is 500, .* 8 devices; .* such as 496"),
    (2, 16, 5, "norm_groups is 5, .*not divide config.data.batch_size 16"),
    (6, 24, 8, "norm_groups is 8, which fits 6 devices neither way"),
  ],
)
def test_check_batch_refuses_with_the_numbers(devices, batch, groups, message):
  partitioner = Partitioner.create(Parallel(), jax.devices()[:devices])
  with pytest.raises(ConfigError, match=message):
    partitioner.check_batch(batch, groups)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_check_batch_accepts_what_divides(devices):
  partitioner = Partitioner.create(Parallel(), jax.devices()[:devices])
  for groups in (1, 2, 8):
    partitioner.check_batch(16, groups)


def test_pmap_mode_refuses_sharded_parameters():
  with pytest.raises(ValueError, match="'fsdp' need mode='pjit'"):
    Parallel(mode="pmap", rules="fsdp")


def test_fsdp_shards_the_largest_dimension_that_divides():
  partitioner = Partitioner.create(Parallel(rules="fsdp"))
  shapes = {
    "kernel": jax.ShapeDtypeStruct((3, 3, 64, 512), jnp.float32),
    "odd": jax.ShapeDtypeStruct((1001, 48), jnp.float32),
    "small": jax.ShapeDtypeStruct((512,), jnp.float32),
    "indivisible": jax.ShapeDtypeStruct((333, 777), jnp.float32),
  }
  specs = jax.tree.map(lambda s: s.spec, partitioner.state_shardings(shapes))
  assert specs == {
    "kernel": P(None, None, None, "data"),
    "odd": P(None, "data"),
    "small": P(),
    "indivisible": P(),
  }


def test_axis_views_agree():
  """Each operation, of the per-device view against the whole array."""
  mesh = Partitioner.create(Parallel()).mesh
  x = jnp.arange(16.0)

  def per_device(x):
    axis = Axis("data")
    gathered = axis.all_gather(x)
    return {
      "mean": axis.pmean(x.mean()),
      "sum": axis.psum(x.sum()),
      "max": axis.pmax(x.max()),
      "gathered": axis.pmean(gathered),
      "replicated": axis.replicate(x),
      "shared": axis.psum(jnp.sum(axis.share(axis.replicate(x)) * x)),
      "positions": axis.psum(jnp.zeros(16).at[axis.positions(2)].set(x)),
    }

  out = jax.jit(
    jax.shard_map(per_device, mesh=mesh, in_specs=P("data"), out_specs=P())
  )(x)
  assert out["mean"] == Axis().pmean(x.mean())
  assert out["sum"] == Axis().psum(x.sum())
  assert out["max"] == Axis().pmax(x.max())
  assert (out["gathered"] == Axis().all_gather(x)).all()
  assert (out["replicated"] == Axis().replicate(x)).all()
  assert out["shared"] == jnp.sum(Axis().share(x) * x)
  assert (out["positions"] == x).all()
  assert (Axis().positions(16) == jnp.arange(16)).all()
