"""Compares the FLOPs of a compiled step with those that its method requires.

The required FLOPs are those of the loss and of its gradient, as the method
defines them for the whole batch on one device. A gradient costs two forward
passes: one for the inputs of every layer, and one for its weights. The first
layer needs no gradient of its input, which is an image, and none at all if the
layer is frozen. Recomputation by rematerialisation is not required and not
counted. Only convolutions and matrix products are counted. Normalisation,
activations, augmentation and the optimiser are extra work of a compiled step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sslx.axis import Axis
from sslx.experiment import Experiment
from sslx.methods.base import Method
from sslx.methods.run import Run


def compile_step(experiment: Experiment) -> jax.stages.Compiled:
  """Compiles the training step ahead of time; call it with state and batch."""
  step = experiment.compiled_step()
  return step.lower(
    experiment.abstract_state, experiment.abstract_batch
  ).compile()


def report(experiment: Experiment, compiled: jax.stages.Compiled) -> list[str]:
  """Lines that report FLOPs and memory of the compiled step, per device."""
  devices = experiment.partitioner.mesh.size
  parts = experiment.step.accumulate
  # XLA counts the body of a loop once: one micro-batch.
  flops = compiled.cost_analysis()["flops"]
  each = " and micro-batch" if parts > 1 else ""
  work = f"compiled step: {flops / 1e9:.2f} GFLOP a device{each}"
  needed = required(experiment) / (devices * parts)
  work += f", the method needs {needed / 1e9:.2f} ({flops / needed:.3f} times)"
  memory = compiled.memory_analysis()
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes
  peak = held - memory.alias_size_in_bytes + memory.temp_size_in_bytes
  own = tree_bytes((experiment.abstract_state, experiment.abstract_batch))
  return [
    work,
    f"peak memory: {peak / 2**20:.0f} MiB a device, of which state and batch"
    f" {own / 2**20:.0f}",
  ]


def tree_bytes(tree: Any) -> int:
  """Bytes of the arrays in a tree on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def required(experiment: Experiment) -> float:
  """FLOPs that the loss of one step and its gradient require."""
  method = experiment.step.method
  if getattr(method.backbone, "remat", False):
    backbone = method.backbone.clone(remat=False)
    method = dataclasses.replace(method, backbone=backbone)
  loss, trees, batch = abstract_loss(experiment, method)
  return sum(_counts(jax.make_jaxpr(jax.grad(loss))(*trees, batch).jaxpr))


def abstract_loss(
  experiment: Experiment, method: Method, kind: type[Run] = Run
) -> tuple[Callable, tuple, dict[str, Any]]:
  """Returns the loss of the whole batch on one device, and its arguments.

  Args:
    experiment: gives the shapes.
    method: the method of the experiment, or one with the same parameters.
    kind: how the method calls its networks.

  Returns:
    (params, model_state, aux, batch) -> f32 scalar; ShapeDtypeStructs of the
    first three, and of the batch.
  """
  step, state = experiment.step, experiment.abstract_state
  b = experiment.data.batch_size
  batch = {
    "views": tuple(
      jax.ShapeDtypeStruct((b, *step.view_shape(slot)), jnp.float32)
      for slot in step.slots
    ),
    "index": jax.ShapeDtypeStruct((b,), jnp.int32),
    "label": jax.ShapeDtypeStruct((b,), jnp.int32),
  }
  if any(slot.shuffled for slot in step.slots):
    batch["back"] = batch["index"]
  plain = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  trees = jax.tree.map(plain, (state.params, state.model_state, state.aux))

  def loss(params, model_state, aux, batch):
    rng, count = jax.random.key(0), jnp.int32(0)
    run = kind(method, params, model_state, aux, batch, rng, count, Axis())
    return run.loss()[0]

  return loss, trees, batch


def _counts(jaxpr: Any) -> Iterator[float]:
  """Yields the FLOPs of each convolution and matrix product, in order."""
  return (count for _, count in scoped(jaxpr))


def scoped(jaxpr: Any, outer: str = "") -> Iterator[tuple[str, float]]:
  """Yields the FLOPs of each convolution and matrix product, with its scope.

  Args:
    jaxpr: the computation.
    outer: scope of the computation.

  Yields:
    The scope, such as "jvp(ViT)/blocks_0/attn", and the FLOPs.
  """
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    scope = f"{outer}/{equation.source_info.name_stack}"
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      depth = math.prod(equation.invars[0].aval.shape[d] for d in contracted)
      yield scope, 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
    elif name == "conv_general_dilated":
      yield scope, _convolution(equation)
    inner = [
      list(scoped(inner, scope))
      for inner in core.jaxprs_in_params(equation.params)
    ]
    if name == "cond":  # One branch is taken; the dearest counts.
      inner = [max(inner, key=lambda pairs: sum(x for _, x in pairs))]
    for pairs in inner:
      for where, count in pairs:  # `length` is the number of steps of a scan.
        yield where, count * equation.params.get("length", 1)


def _convolution(equation: Any) -> float:
  """FLOPs of a convolution or of a gradient of one.

  Products with padding, or with the zeros of a dilation, are not counted.
  """
  image, kernel = (x.aval for x in equation.invars)
  out = equation.outvars[0].aval
  settings = equation.params
  numbers = settings["dimension_numbers"]
  (batch, _, *space) = numbers.lhs_spec
  (_, inputs, *taps) = numbers.rhs_spec
  (_, features, *places) = numbers.out_spec
  count = 2 * image.shape[batch] * kernel.shape[inputs] * out.shape[features]
  count /= settings["batch_group_count"]
  for d, (stride, (before, _), spread, apart) in enumerate(
    zip(
      settings["window_strides"],
      settings["padding"],
      settings["lhs_dilation"],
      settings["rhs_dilation"],
      strict=True,
    )
  ):
    place = np.arange(out.shape[places[d]])[:, None] * stride - before
    pixel = place + np.arange(kernel.shape[taps[d]]) * apart
    inside = (pixel >= 0) & (pixel <= (image.shape[space[d]] - 1) * spread)
    count *= np.sum(inside & (pixel % spread == 0))
  return float(count)
