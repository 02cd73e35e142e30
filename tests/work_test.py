"""Steps compute little more than their methods have to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslx import experiment as experiment_lib
from sslx import settings
from sslx.benchmark import work
from tests import tiny, work_formulas

VITS = ("mocov3", "mae", "ijepa", "dino", "ibot", "dinov2")


def build(recipe, devices, **changes):
  changes = {
    "data.source": "shapes",
    "data.batch_size": 16,
    "model.backbone.width": 0.5,
    "schedule.lr.warmup": 0.0,
  } | changes
  config = settings.load(
    f"{tiny.ROOT}/configs/{recipe}", [(k, repr(v)) for k, v in changes.items()]
  )
  return experiment_lib.build(config, jax.devices()[:devices])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("method", ["mocov2", "swav", "lejepa"])
def test_the_step_does_at_most_a_tenth_more_than_the_method_needs(
  method, devices
):
  # No queues: their logits are not what a step this small can be judged by; nor
  # are the cosines of many directions.
  smaller = {
    "mocov2": {"model.queue_size": 16},
    "swav": {"model.queue_size": 0, "model.prototypes": 64},
    "lejepa": {"model.directions": 16},
  }
  experiment = build(f"{method}.py:cifar10", devices, **smaller.get(method, {}))
  compiled = work.compile_step(experiment)
  needed = work.required(experiment) / devices
  assert 1 <= compiled.cost_analysis()["flops"] / needed < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("method", [*VITS])
def test_nor_does_that_of_a_vit(method, devices):
  # Of one block: its width is what a matrix product outweighs the rest by.
  smaller = {"data.views.0.size": 32, "model.backbone.depth": 1}
  if method in VITS[3:]:
    smaller |= {"data.views.2.count": 2, "model.head.prototypes": 256}
  smaller |= {"model.backbone.width": 384, "model.backbone.heads": 6}
  if method == "mae":
    smaller |= {"model.decoder.width": 384, "model.decoder.depth": 1}
    smaller |= {"model.decoder.heads": 6}
  if method == "ijepa":
    smaller |= {"model.predictor.width": 384, "model.predictor.depth": 1}
    smaller |= {"model.predictor.heads": 6}
  experiment = build(f"{method}.py:quickstart", devices, **smaller)
  compiled = work.compile_step(experiment)
  needed = work.required(experiment) / devices
  assert 1 <= compiled.cost_analysis()["flops"] / needed < 1.1


def test_lines_of_the_report():
  experiment = tiny.build_method(tiny.method_config("simclr"))
  work_line, memory_line = work.report(
    experiment, work.compile_step(experiment)
  )
  assert "GFLOP a device, the method needs" in work_line
  assert memory_line.startswith("peak memory: ")


@pytest.mark.slow
def test_of_micro_batches_one_is_reported():
  changes = {"data.views.0.size": 16, "schedule.accumulate": 4}
  experiment = build(
    "mae.py:quickstart",
    1,
    **changes
    | {
      "model.backbone.depth": 1,
      "model.backbone.width": 192,
      "model.decoder.depth": 1,
    },
  )
  line, _ = work.report(experiment, work.compile_step(experiment))
  assert "GFLOP a device and micro-batch, the method needs" in line
  assert 1 < float(line.split("(")[1].split(" times")[0]) < 1.5, line


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_operations_of_a_convolution(stride, padding):
  x, kernel = jnp.zeros((2, 9, 7, 3)), jnp.zeros((3, 5, 3, 4))
  convolve = lambda x, kernel: jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  # Each product of a pixel of ones and a tap of ones adds one.
  products = convolve(x + 1, kernel + 1).sum()
  (counted,) = work._counts(jax.make_jaxpr(convolve)(x, kernel).jaxpr)
  assert counted == 2 * products


@pytest.mark.parametrize("method", dict.fromkeys(tiny.METHODS + VITS))
def test_what_a_method_requires_is_what_its_paper_says(method):
  if method not in VITS:
    experiment = tiny.build_method(tiny.method_config(method))
  else:
    # Rematerialised: what is computed again is not required.
    config = tiny.vit_config(method, model__backbone__remat=True)
    experiment = experiment_lib.build(config, jax.devices()[:1])
  counted = work.required(experiment)
  np.testing.assert_allclose(
    counted, work_formulas.required(experiment), rtol=2e-3
  )


def test_a_gradient_costs_two_passes_more_but_for_the_first_layer():
  experiment = build("simclr.py:cifar10", 1)
  backbone = experiment.step.method.backbone
  apply, variables, x = work_formulas._bound(backbone, (16, 32, 32, 3))
  loss = lambda variables, x: jnp.sum(apply(variables, x))
  counts = lambda f: sum(work._counts(jax.make_jaxpr(f)(variables, x).jaxpr))
  forward, trained = counts(loss), counts(jax.grad(loss))
  compiled = jax.jit(jax.grad(loss)).lower(variables, x).cost_analysis()
  assert forward * 2.9 < trained < forward * 3
  np.testing.assert_allclose(compiled["flops"], trained, rtol=0.05)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_operations_of_the_gradients_of_a_convolution(stride, padding):
  """As many products as its own, for the input and for the kernel."""
  x, kernel = jnp.zeros((2, 9, 7, 4)), jnp.zeros((3, 5, 2, 6))
  convolve = lambda x, kernel: jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=2,
  )
  gradient = jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 2), (0, 1))
  count = lambda f: list(work._counts(jax.make_jaxpr(f)(x, kernel).jaxpr))
  (own,) = count(convolve)
  assert count(gradient) == [own] * 3


def test_operations_of_loops_and_branches():
  a = jnp.zeros((4, 4))

  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ a, None), x, None, length=5)[0]

  def branch(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ a @ a, lambda x: x @ a, x)

  count = lambda f: sum(work._counts(jax.make_jaxpr(f)(a).jaxpr))
  assert count(loop) == 5 * 2 * 4**3
  assert count(branch) == 2 * 2 * 4**3
