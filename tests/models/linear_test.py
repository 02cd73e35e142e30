"""Layers whose gradients are float32, beside those of float32 throughout."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sslx import experiment as experiment_lib
from sslx.axis import Axis
from sslx.models import linear
from sslx.parallel import Parallel, Partitioner
from tests import tiny

WIDE = Axis(float32_gradients=True)


def layers(axis, dtype):
  conv = functools.partial(
    nn.Conv, 16, use_bias=False, dtype=dtype, **linear.conv(axis)
  )
  return {
    "dense": (nn.Dense(48, dtype=dtype, **linear.dense(axis)), (64, 32)),
    "heads": (
      nn.DenseGeneral((3, 4, 8), dtype=dtype, **linear.dense(axis)),
      (4, 16, 32),
    ),
    "merged": (
      nn.DenseGeneral(24, axis=(-2, -1), dtype=dtype, **linear.dense(axis)),
      (4, 16, 4, 8),
    ),
    "conv": (conv((3, 3), 2, padding=1), (4, 9, 7, 8)),
    "conv1x1": (conv((1, 1), 1, padding=0), (4, 9, 7, 8)),
    "strided": (conv((1, 1), 2, padding=0), (4, 9, 7, 8)),
  }


KINDS = tuple(layers(Axis(), "float32"))


def rounded(key, shape):
  """Numbers that bfloat16 has, so that only arithmetic rounds."""
  x = jax.random.normal(jax.random.key(key), shape)
  return x.astype(jnp.bfloat16).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def outcome(kind, axis, dtype):
  """Result, and gradients of weights and inputs."""
  layer, shape = layers(axis, dtype)[kind]
  x = rounded(0, shape)
  params = layer.init(jax.random.key(1), x)
  params = jax.tree.map(lambda w: rounded(2, w.shape), params)
  y, pull = jax.vjp(layer.apply, params, x.astype(dtype))
  return y, *pull(rounded(3, y.shape).astype(y.dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_bfloat16_layers_are_those_of_float32(kind):
  y, params, x = outcome(kind, WIDE, "bfloat16")
  _, expected, expected_x = outcome(kind, Axis(), "float32")
  tiny.assert_close(params, expected, 1e-6)
  tiny.assert_close(x.astype(jnp.float32), expected_x, 1e-2)
  usual, rough, usual_x = outcome(kind, Axis(), "bfloat16")
  tiny.assert_close(y.astype(jnp.float32), usual.astype(jnp.float32), 1e-2)
  np.testing.assert_array_equal(x, usual_x)
  if kind in (
    "dense",
    "heads",
    "merged",
  ):  # Of convolutions XLA rounds nothing on CPUs.
    with pytest.raises(AssertionError):  # What it is for.
      tiny.assert_close(rough, expected, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_nothing_changes(kind):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5),
    outcome(kind, WIDE, "float32"),
    outcome(kind, Axis(), "float32"),
  )


@pytest.mark.parametrize("kind", ["conv1x1", "strided"])
def test_a_1x1_convolution_is_a_product_on_cpu_alone(kind):
  layer, shape = layers(Axis(), "float32")[kind]
  x = rounded(0, shape)
  params = layer.init(jax.random.key(1), x)
  kernel, stride = params["params"]["kernel"], layer.strides
  assert kernel.shape == (1, 1, 8, 16)
  g = np.random.default_rng(0).normal(size=layer.apply(params, x).shape)

  def run(params, x):
    y, pull = jax.vjp(layer.apply, params, x)
    return y, *pull(jnp.float32(g))

  y, to_kernel, to_x = jax.jit(run)(params, x)
  seen = np.asarray(x, np.float64)[:, ::stride, ::stride]
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
  close(y, np.einsum("bhwc,cd->bhwd", seen, kernel[0, 0]))
  wanted = np.einsum("bhwc,bhwd->cd", seen, g)
  close(to_kernel["params"]["kernel"][0, 0], wanted, atol=1e-4)
  wanted = np.zeros(shape)
  wanted[:, ::stride, ::stride] = np.einsum("bhwd,cd->bhwc", g, kernel[0, 0])
  close(to_x, wanted)
  count = lambda name, text: text.count(f"stablehlo.{name}")
  for platform, convs in (("cpu", 0), ("tpu", 3), ("cuda", 3)):
    traced = jax.jit(run).trace(params, x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert count("convolution", text) == convs
    assert count("dot_general", text) == 3 - convs


@pytest.mark.parametrize("kind", KINDS)
def test_over_devices_gradients_are_those_of_the_whole_batch(kind):
  mesh = Partitioner.create(Parallel(), jax.devices()[:4]).mesh

  def gradient(axis):
    layer, shape = layers(axis, "bfloat16")[kind]
    x = rounded(0, shape)
    params = layer.init(jax.random.key(1), x)

    def loss(params, x):
      y = layer.apply(params, x).astype(jnp.float32)
      return axis.pmean((y**2).mean())

    return jax.grad(loss), params, x

  expected, params, x = gradient(WIDE)
  each, *_ = gradient(Axis("data", float32_gradients=True))
  mapped = jax.shard_map(
    each, mesh=mesh, in_specs=(P(), P("data")), out_specs=P()
  )
  tiny.assert_close(jax.jit(mapped)(params, x), expected(params, x), 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae", "simclr"])
@pytest.mark.parametrize("mode", ["pjit", "pmap"])
def test_steps_in_float32_are_the_same(method, mode):
  """The compute is float32 already."""

  def steps(grad_sum):
    changes = {
      "runtime__parallel__grad_sum": grad_sum,
      "runtime__parallel__mode": mode,
    }
    make = tiny.config if method == "simclr" else tiny.vit_config
    config = make(*([] if method == "simclr" else [method]), **changes)
    experiment = experiment_lib.build(config)
    batches = [experiment.partitioner.put(tiny.batch(i)) for i in range(2)]
    return tiny.run_steps(experiment, experiment.init_state(), batches)

  metrics, state = steps("float32")
  old_metrics, old_state = steps("compute")
  tiny.assert_close(metrics, old_metrics, 1e-5)
  tiny.assert_close(state.params, old_state.params, 1e-5)
