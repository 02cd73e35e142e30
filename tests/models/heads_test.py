"""Heads against numpy, with the layers that the papers give them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import PartitionSpec as P

from sslx import config
from sslx.axis import Axis
from sslx.models import heads

EPS = 1e-5
INPUTS = 6

# Rows of the class's table, narrow: settings, and the layers they must give.
HEADS = {
  "simclr": (
    dict(dims=(8, 3), last_norm="affine"),
    "linear affine relu linear affine",
  ),
  "mocov2": (
    dict(dims=(8, 3), use_bias=True, norm=False),
    "biased relu biased",
  ),
  "mocov3_projector_simsiam_projector_and_barlow_twins": (
    dict(dims=(8, 7, 3), last_norm="plain"),
    "linear affine relu linear affine relu linear plain",
  ),
  "mocov3_resnet_predictor": (
    dict(dims=(8, 3)),
    "linear affine relu linear",
  ),
  "swav_and_simsiam_predictor": (
    dict(dims=(8, 3), use_bias=True),
    "linear affine relu biased",
  ),
  "classifier": (dict(dims=(3,), use_bias=True), "biased"),
}


def shapes_of(module):
  x = jax.ShapeDtypeStruct((1, INPUTS), jnp.float32)
  init = functools.partial(module.init, train=True)
  return jax.eval_shape(init, jax.random.key(0), x)


def random_variables(module):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(np.float32),
    shapes_of(module),
  )


def inputs(b=8):
  x = np.random.default_rng(1).normal(size=(b, INPUTS))
  return x.astype(np.float32)


def numpy_forward(params, x, layers, groups):
  """The output, and the parameters it took to make it."""
  used, i = set(), 0
  x = x.astype(np.float64)

  def get(name):
    used.add(name)
    module, leaf = name.split("/")
    return params[module][leaf]

  for layer in layers.split():
    if layer in ("linear", "biased"):
      i += 1
      x = x @ get(f"fc{i}/kernel")
      if layer == "biased":
        x = x + get(f"fc{i}/bias")
    elif layer in ("affine", "plain"):
      grouped = x.reshape(groups, -1, x.shape[-1])
      mean, var = grouped.mean(1, keepdims=True), grouped.var(1, keepdims=True)
      x = ((grouped - mean) / np.sqrt(var + EPS)).reshape(x.shape)
      if layer == "affine":
        x = x * get(f"bn{i}/scale") + get(f"bn{i}/bias")
    else:
      x = np.maximum(x, 0)
  return x, used


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("groups", [1, 2])
def test_equals_numpy(head, groups):
  settings, layers = HEADS[head]
  module = heads.MLP(**settings, norm_groups=groups)
  variables = random_variables(module)
  params = variables["params"]
  y, _ = module.apply(variables, inputs(), train=True, mutable=["batch_stats"])
  want, used = numpy_forward(params, inputs(), layers, groups)
  assert y.dtype == jnp.float32 and y.shape == (8, 3)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
  assert used == {f"{m}/{leaf}" for m in params for leaf in params[m]}


@pytest.mark.parametrize("trained_scale", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_prototype_head_equals_numpy(norm, trained_scale):
  module = heads.PrototypeHead(
    dims=(8, 7, 3), prototypes=11, norm=norm, trained_scale=trained_scale
  )
  variables = random_variables(module)
  params = variables["params"]
  apply = lambda x: module.apply(
    variables, x, train=True, mutable=["batch_stats"]
  )[0]
  x = inputs().astype(np.float64)
  for i in (1, 2, 3):
    layer = params[f"fc{i}"]
    assert ("bias" in layer) == (i == 3 or not norm)
    x = x @ layer["kernel"] + layer.get("bias", 0)
    if i < 3:
      if norm:
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + EPS)
        x = x * params[f"bn{i}"]["scale"] + params[f"bn{i}"]["bias"]
      x = x * scipy.special.ndtr(x)  # GELU
  x /= np.linalg.norm(x, axis=-1, keepdims=True)
  rows = params["prototypes"]
  rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
  want = x @ rows.T * params.get("scale", 1)
  y = apply(inputs())
  assert y.dtype == jnp.float32 and y.shape == (8, 11)
  np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
  assert trained_scale == ("scale" in params)
  # Patch tokens [b, n, d] are as many more examples.
  tokens = apply(inputs().reshape(2, 4, INPUTS))
  np.testing.assert_allclose(tokens.reshape(8, 11), want, rtol=1e-4, atol=1e-4)


def test_prototype_head_starts_as_the_official_one():
  module = heads.PrototypeHead(dims=(256, 64), prototypes=300)
  init = functools.partial(module.init, train=True)
  params = init(jax.random.key(0), jnp.ones((1, 200)))["params"]
  assert set(params) == {"fc1", "fc2", "prototypes"}
  for name in ("fc1", "fc2"):
    kernel = np.asarray(params[name]["kernel"])
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.02)
    assert np.abs(kernel).max() > 0.06  # Not cut at two deviations.
    assert not np.any(params[name]["bias"])
  rows = np.asarray(params["prototypes"])
  assert rows.shape == (300, 64) and np.abs(rows).max() <= 1 / 8
  np.testing.assert_allclose(rows.std(), 1 / 8 / 3**0.5, rtol=0.02)
  scaled = heads.PrototypeHead(dims=(256, 64), prototypes=300,
                               trained_scale=True)  # fmt: skip
  init = functools.partial(scaled.init, train=True)
  found = init(jax.random.key(0), jnp.ones((1, 200)))["params"]
  np.testing.assert_array_equal(found.pop("scale"), np.ones(300))
  jax.tree.map(np.testing.assert_array_equal, found, params)


def test_prototype_head_in_bfloat16_has_exact_similarities():
  settings = dict(dims=(8, 3), prototypes=11)
  module = heads.PrototypeHead(**settings, dtype="bfloat16")
  variables = random_variables(module)
  apply = lambda module, v=variables: module.apply(v, inputs(), train=True)
  exact = apply(heads.PrototypeHead(**settings))
  y = apply(module)
  assert y.dtype == jnp.float32
  assert 1e-4 < np.abs(y - exact).max() < 0.1
  # A prototype's similarity to itself is 1 to float32's accuracy.
  z, last = y, variables["params"]["prototypes"]
  unit = last / np.linalg.norm(last, axis=-1, keepdims=True)
  z = np.linalg.lstsq(unit, np.asarray(z).T, rcond=None)[0]
  np.testing.assert_allclose(np.linalg.norm(z, axis=0), 1, atol=1e-5)
  # A prototype may have any length, and its gradient keeps it.
  double = {**variables["params"], "prototypes": 2 * last}
  np.testing.assert_allclose(apply(module, {"params": double}), y, atol=1e-6)
  loss = lambda p: jnp.sum(
    module.apply({"params": p}, inputs(), train=True) ** 3
  )
  gradient = jax.grad(loss)(variables["params"])["prototypes"]
  np.testing.assert_allclose((gradient * last).sum(-1), 0, atol=1e-4)


def test_eval_takes_each_image_alone():
  module = heads.MLP(dims=(8, 3), last_norm="affine")
  variables = random_variables(module)
  stats = variables["batch_stats"]
  variables["batch_stats"] = jax.tree.map(np.abs, stats)  # variances
  whole = module.apply(variables, inputs(), train=False)
  alone = module.apply(variables, inputs()[:1], train=False)
  np.testing.assert_allclose(alone, whole[:1], rtol=1e-5, atol=1e-6)


def test_bfloat16_computes_in_it_and_returns_float32():
  for last_norm in ("none", "affine"):
    module = heads.MLP(
      dims=(8, 3), use_bias=True, last_norm=last_norm, dtype="bfloat16"
    )
    variables = random_variables(module)
    y, new = module.apply(
      variables,
      inputs(),
      train=True,
      capture_intermediates=True,
      mutable=["batch_stats", "intermediates"],
    )
    assert y.dtype == jnp.float32
    seen = jax.tree.map(lambda a: a.dtype, new["intermediates"])
    for name in ("fc1", "bn1", "fc2"):
      assert seen[name]["__call__"] == (jnp.bfloat16,)
    layers = "linear affine relu " + (
      "biased" if last_norm == "none" else "linear affine"
    )
    want, _ = numpy_forward(variables["params"], inputs(), layers, 1)
    assert 1e-4 < np.abs(y - want).max() < 0.1


def test_parameters_start_as_torch_linear():
  module = heads.MLP(dims=(512, 300), use_bias=True, norm=False)
  params = module.init(jax.random.key(0), jnp.ones((1, 100)), train=True)
  for name, fan_in in (("fc1", 100), ("fc2", 512)):
    bound = fan_in**-0.5
    kernel = np.asarray(params["params"][name]["kernel"])
    assert np.abs(kernel).max() <= bound
    # A uniform draw: variance bound^2 / 3, reaching close to both ends.
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.01)
    np.testing.assert_allclose(kernel.min(), -bound, rtol=0.01)
    np.testing.assert_allclose(kernel.max(), bound, rtol=0.01)
    bias = np.asarray(params["params"][name]["bias"])
    assert 0.9 * bound < np.abs(bias).max() <= bound


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_per_device_view_equals_the_global_view(groups):
  module = heads.MLP(dims=(8, 3), last_norm="plain", norm_groups=groups)
  variables = random_variables(module)
  x = inputs(64)  # 8 to a group: of 2, some are too alike to divide by
  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))

  def forward(variables, x, axis):
    return module.apply(
      variables, x, train=True, axis=axis, mutable=["batch_stats"]
    )

  per_device = jax.shard_map(
    functools.partial(forward, axis=Axis("data")),
    mesh=mesh,
    in_specs=(P(), P("data")),
    out_specs=(P("data"), P()),
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
    jax.jit(per_device)(variables, x),
    forward(variables, x, Axis()),
  )


@pytest.mark.parametrize(
  "settings, message",
  [
    (dict(dims=()), "dims is \\(\\)"),
    (dict(dims=(8, 0)), "dims is \\(8, 0\\)"),
    (dict(dims=(8,), norm_groups=0), "norm_groups is 0"),
  ],
)
@pytest.mark.parametrize("head", [heads.MLP, heads.PrototypeHead])
def test_impossible_settings(head, settings, message):
  with pytest.raises(ValueError, match=message):
    head(**settings)


def test_is_built_from_a_config_section():
  section = {"dims": [512, 128], "last_norm": "affine"}
  built = config.build(heads.MLP, section, "model.projector", dtype="bfloat16")
  assert built == heads.MLP(
    dims=(512, 128), last_norm="affine", dtype="bfloat16"
  )
  section = {"prototypes": 64, "trained_scale": True}
  built = config.build(
    heads.PrototypeHead, section, "model.head", dtype="bfloat16"
  )
  assert built == heads.PrototypeHead(
    prototypes=64, trained_scale=True, dtype="bfloat16"
  )
  with pytest.raises(config.ConfigError, match=r"model\.head\.prototypes is 0"):
    config.build(heads.PrototypeHead, {"prototypes": 0}, "model.head")
  with pytest.raises(config.ConfigError, match=r"projector\.last_norm.*plain"):
    config.build(heads.MLP, {"dims": [8], "last_norm": "bn"}, "model.projector")
