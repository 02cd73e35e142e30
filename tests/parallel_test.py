"""Shardings, and batches that cannot be spread."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from sslx import methods
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.models import transformer
from sslx.parallel import Parallel, Partitioner
from sslx.state import TrainState
from tests import tiny


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


def state_of(params, **rest):
  """A state with these parameters, Adam's moments and an EMA of them."""
  struct = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  tree = lambda: jax.tree.map(
    struct, params, is_leaf=lambda x: isinstance(x, tuple)
  )
  return TrainState(
    step=struct(()),
    params=tree(),
    model_state={},
    opt_state=({"mu": tree(), "nu": tree()}, {"count": struct(())}),
    aux={"params": tree(), **{k: struct(x) for k, x in rest.items()}},
    probe=None,
    rng=struct((2,)),
  )


def specs_of(state, **settings):
  partitioner = Partitioner.create(Parallel(**settings))
  shardings = partitioner.state_shardings(state, transformer.TENSOR_RULES)
  return jax.tree.map(lambda s: s.spec, shardings)


def test_fsdp_shards_the_largest_dimension_that_divides():
  state = state_of(
    {
      "kernel": (3, 3, 64, 512),
      "odd": (1001, 48),
      "small": (512,),
      "indivisible": (333, 777),
    },
    queue=(65536, 128),
  )
  specs = specs_of(state, rules="fsdp")
  own = {
    "kernel": P(None, None, None, "data"),
    "odd": P(None, "data"),
    "small": P(),
    "indivisible": P(),
  }
  assert specs.params == own
  # And with it all that is kept for each parameter, but nothing else.
  assert specs.opt_state == ({"mu": own, "nu": own}, {"count": P()})
  assert specs.aux == {"params": own, "queue": P()}


BLOCK = {
  "backbone": {
    "blocks_0": {
      "attn": {
        "qkv": {"kernel": (64, 3, 4, 64), "bias": (3, 4, 64)},
        "proj": {"kernel": (4, 64, 64), "bias": (64,)},
      },
      "mlp": {
        "fc1": {"kernel": (64, 256), "bias": (256,)},
        "fc2": {"kernel": (256, 64), "bias": (64,)},
      },
    }
  },
  "projector": {"fc1": {"kernel": (64, 256)}},
}


@pytest.mark.parametrize("rules", ["replicated", "fsdp"])
def test_a_model_axis_takes_heads_and_hidden_units(rules):
  mesh = (("data", 4), ("model", 2))
  specs = specs_of(state_of(BLOCK), rules=rules, mesh=mesh)
  data = ("data",) if rules == "fsdp" else ()
  block = {
    "attn": {
      "qkv": {
        "kernel": P(*data or (None,), None, "model"),
        "bias": P(None, "model"),
      },
      "proj": {"kernel": P("model", *data), "bias": P()},
    },
    "mlp": {
      "fc1": {"kernel": P(*data or (None,), "model"), "bias": P("model")},
      "fc2": {"kernel": P("model", *data), "bias": P()},
    },
  }
  projector = {"fc1": {"kernel": P(None, *data) if data else P()}}
  own = {"backbone": {"blocks_0": block}, "projector": projector}
  assert specs.params == own
  assert specs.opt_state[0] == {"mu": own, "nu": own}
  assert specs.aux == {"params": own}


def test_fsdp_divides_the_bytes_of_a_vit_by_the_devices():
  config = tiny.vit_config("mocov3")
  whole = {"variant": "base", "width": None, "depth": None, "heads": None}
  config.model.backbone.update(whole)
  method = methods.build(config.model, methods.Plan(16, 10, 10))
  views = (jnp.zeros((2, 16, 16, 3)),) * 2
  params, _, aux = jax.eval_shape(
    lambda key: method.init(key, {"views": views}), jax.random.key(0)
  )
  moments = optax.scale_by_adam()
  state = TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    params=params,
    model_state={},
    opt_state=jax.eval_shape(moments.init, params),
    aux=aux,
    probe=None,
    rng=jax.ShapeDtypeStruct((2,), jnp.uint32),
  )

  def bytes_of(tree, devices, mesh=()):
    settings = Parallel(rules="fsdp", mesh=mesh)
    partitioner = Partitioner.create(settings, jax.devices()[:devices])
    shardings = partitioner.state_shardings(state, method.tensor_rules)
    sizes = jax.tree.map(
      lambda x, s: math.prod(s.shard_shape(x.shape)), state, shardings
    )
    return sum(jax.tree.leaves(getattr(sizes, tree)))

  for tree in ("params", "opt_state", "aux"):
    whole = bytes_of(tree, 1)
    for n in (2, 4, 8):
      assert whole / n <= bytes_of(tree, n) < 1.02 * whole / n, (tree, n)
    both = bytes_of(tree, 8, (("data", 4), ("model", 2)))
    # The heads of MoCo v3 are on the data axis alone.
    assert both < 1.1 * whole / 8


@pytest.mark.parametrize(
  ("mesh", "message"),
  [
    ((("data", 4), ("model", 4)), r"of 16 devices, but there are 8"),
    ((("data", 4),), r"of 4 devices, but there are 8"),
  ],
)
def test_a_mesh_of_other_devices_is_refused(mesh, message):
  with pytest.raises(ConfigError, match=message):
    Partitioner.create(Parallel(mesh=mesh))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"mesh": (("data", 4), ("expert", 2))}, "axes 'data', 'expert'; it must"),
    ({"mesh": (("model", 8),)}, "axes 'model'; it must have 'data'"),
    ({"mesh": (("data", 4), ("data", 2))}, "'data', 'data'; .* each once"),
    ({"mesh": (("data", 8), ("model", 0))}, "sizes must be at least 1"),
    (
      {"mesh": (("data", 4), ("model", 2)), "mode": "pmap"},
      "needs mode='pjit'",
    ),
  ],
)
def test_an_impossible_mesh_is_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    Parallel(**settings)


def test_heads_that_do_not_divide_are_refused():
  mesh = (("data", 1), ("model", 8))
  message = "8 devices on 'model', .* the 4 heads or .* of backbone/"
  with pytest.raises(ConfigError, match=message):
    specs_of(state_of(BLOCK), mesh=mesh)


def test_a_model_axis_without_a_transformer_is_refused():
  mesh = (("data", 4), ("model", 2))
  with pytest.raises(ConfigError, match="no Transformer block to spread over"):
    specs_of(state_of({"conv1": {"kernel": (3, 3, 64, 512)}}), mesh=mesh)


@pytest.mark.parametrize("model", [1, 2, 4])
def test_a_process_loads_each_row_once(model):
  mesh = (("data", 8 // model), ("model", model))
  partitioner = Partitioner.create(Parallel(mesh=mesh))
  assert partitioner.num_devices == 8 // model
  np.testing.assert_array_equal(partitioner.local_rows(16), np.arange(16))
  x = partitioner.put({"label": np.arange(16)})["label"]
  np.testing.assert_array_equal(x, np.arange(16))


@pytest.mark.parametrize("mesh", [(), (("model", 4), ("data", 2))])
def test_numbers_of_each_process_are_gathered(mesh):
  partitioner = Partitioner.create(Parallel(mesh=mesh))
  found = partitioner.of_each_process((0.25, float("nan"), 3))
  np.testing.assert_array_equal(found, np.float32([[0.25, np.nan, 3]]))


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
