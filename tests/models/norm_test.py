"""BatchNorm against the formulas in numpy, in every layout of the batch."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sslx.axis import Axis
from sslx.models import norm

SHAPE = (24, 3, 2, 5)
EPS, MOMENTUM = 1e-5, 0.9


def mesh(devices):
  kind = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh(
    (devices,), ("data",), kind, devices=jax.devices()[:devices]
  )


@functools.cache
def problem():
  rng = np.random.default_rng(0)
  x = rng.normal(np.linspace(0, 3, SHAPE[-1]), 1.0, SHAPE)
  x[:8] += rng.normal(size=SHAPE[-1])  # so that groups differ
  f32 = functools.partial(np.asarray, dtype=np.float32)
  params = {
    "scale": f32(rng.normal(1, 0.3, 5)),
    "bias": f32(rng.normal(size=5)),
  }
  stats = {"mean": f32(rng.normal(size=5)), "var": f32(rng.uniform(1, 2, 5))}
  return f32(x), params, stats


def reference(x, params, stats, groups):
  """Output, gradients of sum(sin(y)) / B, and new running statistics."""
  x = x.astype(np.float64).reshape(groups, -1, *x.shape[1:])
  over = (1, 2, 3)
  mean = x.mean(over, keepdims=True)
  var = x.var(over, keepdims=True)
  hat = (x - mean) / np.sqrt(var + EPS)
  y = params["scale"] * hat + params["bias"]
  dy = np.cos(y) / SHAPE[0]
  dhat = params["scale"] * dy
  dx = dhat - dhat.mean(over, keepdims=True)
  dx -= hat * (dhat * hat).mean(over, keepdims=True)
  dx /= np.sqrt(var + EPS)
  n = x[0].size // x.shape[-1]
  return {
    "y": y.reshape(SHAPE),
    "dx": dx.reshape(SHAPE),
    "scale": (dy * hat).sum((0, *over)),
    "bias": dy.sum((0, *over)),
    "mean": 0.9 * stats["mean"] + 0.1 * mean.mean(0).reshape(-1),
    "var": 0.9 * stats["var"] + 0.1 * (var * n / (n - 1)).mean(0).reshape(-1),
  }


def step(x, params, stats, *, groups, axis):
  """What `reference` gives, by the module and `jax.grad`."""
  module = norm.BatchNorm(groups=groups, axis=axis)

  def loss(x, params):
    variables = {"params": params, "batch_stats": stats}
    y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return axis.pmean(jnp.sin(y).sum() / len(x)), (y, new["batch_stats"])

  (dx, dparams), (y, new) = jax.grad(loss, (0, 1), has_aux=True)(x, params)
  return {"y": y, "dx": dx, **dparams, **new}


LAYOUTS = [
  *((mode, n, g) for g in (1, 2, 4, 8) for mode, n in [("jit", 1), ("jit", 8)]),
  *(("shard_map", n, g) for g in (1, 2, 4, 8) for n in (1, 2, 4, 8)),
  ("shard_map", 6, 3),
  ("shard_map", 3, 6),
]


@pytest.mark.parametrize("mode, devices, groups", LAYOUTS)
def test_equals_numpy_in_every_layout(mode, devices, groups):
  x, params, stats = problem()
  split = NamedSharding(mesh(devices), P("data"))
  if mode == "jit":
    run = functools.partial(step, groups=groups, axis=Axis())
  else:
    per_example = {"y": P("data"), "dx": P("data")}
    shared = dict.fromkeys(["scale", "bias", "mean", "var"], P())
    run = jax.shard_map(
      functools.partial(step, groups=groups, axis=Axis("data")),
      mesh=split.mesh,
      in_specs=(P("data"), P(), P()),
      out_specs=per_example | shared,
    )
  got = jax.jit(run)(jax.device_put(x, split), params, stats)
  want = reference(x, params, stats, groups)
  assert got.keys() == want.keys()
  for key in want:
    np.testing.assert_allclose(
      got[key], want[key], rtol=1e-5, atol=1e-5, err_msg=key
    )


def test_groups_change_the_result():
  x, params, stats = problem()
  one = reference(x, params, stats, 1)["y"]
  two = reference(x, params, stats, 2)["y"]
  assert np.abs(one - two).max() > 0.1  # else the test above shows nothing


@pytest.mark.parametrize("groups", [1, 2])
def test_running_variance_is_unbiased_as_in_torch(groups):
  # Groups (0, 2) and (2, 4): variance 2 with ddof=1; joint variance 8 / 3.
  x = jnp.array([[0.0], [2.0], [2.0], [4.0]])
  module = norm.BatchNorm(groups=groups)
  variables = module.init(jax.random.key(0), x, train=True)
  _, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
  unbiased = 8 / 3 if groups == 1 else 2.0
  np.testing.assert_allclose(new["batch_stats"]["mean"], [0.2], rtol=1e-6)
  np.testing.assert_allclose(
    new["batch_stats"]["var"], [0.9 + 0.1 * unbiased], rtol=1e-6
  )


def test_eval_uses_running_statistics_and_keeps_them():
  x, params, stats = problem()
  variables = {"params": params, "batch_stats": stats}
  y, new = norm.BatchNorm(groups=7).apply(  # groups play no part
    variables, x, train=False, mutable=["batch_stats"]
  )
  want = (x - stats["mean"]) / np.sqrt(stats["var"] + EPS)
  want = want * params["scale"] + params["bias"]
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], stats)


def test_init_takes_any_batch_and_starts_at_zero_and_one():
  module = norm.BatchNorm(groups=8)
  variables = module.init(jax.random.key(0), jnp.ones((1, 3)), train=True)
  for collection, zero, one in [
    ("params", "bias", "scale"),
    ("batch_stats", "mean", "var"),
  ]:
    assert variables[collection].keys() == {zero, one}
    np.testing.assert_array_equal(variables[collection][zero], np.zeros(3))
    np.testing.assert_array_equal(variables[collection][one], np.ones(3))


def test_without_scale_and_bias():
  x, _, stats = problem()
  module = norm.BatchNorm(use_scale=False, use_bias=False)
  assert "params" not in module.init(jax.random.key(0), x, train=True)
  y, _ = module.apply(
    {"batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  identity = {"scale": np.ones(5), "bias": np.zeros(5)}
  want = reference(x, identity, stats, 1)["y"]
  np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_statistics():
  x, params, stats = problem()
  x = jnp.asarray(x, jnp.bfloat16)
  y, new = norm.BatchNorm(groups=2, dtype="bfloat16").apply(
    {"params": params, "batch_stats": stats},
    x,
    train=True,
    mutable=["batch_stats"],
  )
  want = reference(np.asarray(x), params, stats, 2)
  assert y.dtype == jnp.bfloat16
  # The exact output, rounded once: to 8 significant bits, by at most 2^-8.
  np.testing.assert_allclose(
    y.astype(jnp.float32), want["y"], rtol=2**-8, atol=1e-5
  )
  for key in ("mean", "var"):
    assert new["batch_stats"][key].dtype == jnp.float32
    np.testing.assert_allclose(new["batch_stats"][key], want[key], rtol=1e-5)


def test_a_constant_channel_stays_finite():
  x = jnp.full((8, 1), 1234.567)
  module = norm.BatchNorm()
  variables = module.init(jax.random.key(0), x, train=True)

  def loss(x):
    y, _ = module.apply(variables, x, train=True, mutable=["batch_stats"])
    return jnp.sin(y).sum(), y

  dx, y = jax.grad(loss, has_aux=True)(x)
  assert np.isfinite(y).all() and np.isfinite(dx).all()


def collectives(compiled):
  """(operation, largest number of elements) of each in an HLO text."""
  found = re.findall(
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|"
    r"reduce-scatter)(?:-start)?\(",
    compiled.as_text(),
  )
  return [
    (
      op,
      max(
        np.prod([int(n) for n in dims.split(",") if n])
        for dims in re.findall(r"\[([\d,]*)\]", shapes)
      ),
    )
    for shapes, op in found
  ]


def compile_forward(mode, groups, outputs):
  x, params, stats = problem()
  axis = Axis("data" if mode == "shard_map" else None)

  def forward(x, params, stats):
    y, new = norm.BatchNorm(groups=groups, axis=axis).apply(
      {"params": params, "batch_stats": stats},
      x,
      train=True,
      mutable=["batch_stats"],
    )
    return {"y": y, "stats": new["batch_stats"]}[outputs]

  split, whole = P("data"), P()
  out = {"y": split, "stats": whole}[outputs]
  on = lambda spec: NamedSharding(mesh(8), spec)
  if mode == "shard_map":
    forward = jax.shard_map(
      forward, mesh=mesh(8), in_specs=(split, whole, whole), out_specs=out
    )
  compiled = jax.jit(
    forward,
    in_shardings=(on(split), on(whole), on(whole)),
    out_shardings=on(out),
  )
  return compiled.lower(x, params, stats).compile()


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_a_group_per_device_needs_no_communication(mode):
  assert collectives(compile_forward(mode, 8, "y")) == []
  # The running statistics do, of [c] each.
  running = collectives(compile_forward(mode, 8, "stats"))
  assert running and all(
    op == "all-reduce" and size <= 2 * SHAPE[-1] for op, size in running
  )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_activations_stay_where_they_are(mode, groups):
  # Only moments travel: at most [devices, 2, c] of them.
  found = collectives(compile_forward(mode, groups, "y"))
  assert found and all(size <= 8 * 2 * SHAPE[-1] for _, size in found)


@pytest.mark.parametrize(
  "devices, batch, groups, message",
  [
    (1, 8, 3, "batch of 8 does not divide into 3"),
    (2, 8, 3, "batch of 8 does not divide into 3"),
    (2, 6, 3, "3 BatchNorm groups over 2 devices"),
    (4, 24, 6, "6 BatchNorm groups over 4 devices"),
    (2, 4, 4, "batch of 4 in 4 BatchNorm groups"),
  ],
)
def test_impossible_groups_fail_when_traced(devices, batch, groups, message):
  module = norm.BatchNorm(groups=groups, axis=Axis("data"))
  variables = norm.BatchNorm().init(jax.random.key(0), jnp.ones((2, 3)), True)
  run = jax.shard_map(
    lambda x: module.apply(variables, x, True, mutable=["batch_stats"])[0],
    mesh=mesh(devices),
    in_specs=P("data"),
    out_specs=P("data"),
  )
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(run, jax.ShapeDtypeStruct((batch, 3), jnp.float32))


def test_the_variance_keeps_its_digits_where_the_mean_is_large():
  """Once the running mean is near, as it is after some steps."""
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(1000, 1, (64, 8, 8, 5)))
  stats = {"mean": np.full(5, 999.0, np.float32), "var": np.ones(5, np.float32)}
  module = norm.BatchNorm(use_scale=False, use_bias=False)
  y, new = module.apply(
    {"batch_stats": stats}, x, train=True, mutable=["batch_stats"]
  )
  exact = x.astype(np.float64)
  mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
  np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + EPS), atol=2e-3)
  moved = (np.asarray(new["batch_stats"]["var"], np.float64) - 0.9) / 0.1
  unbiased = var * x[..., 0].size / (x[..., 0].size - 1)
  np.testing.assert_allclose(moved, unbiased, rtol=1e-4)
