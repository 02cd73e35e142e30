"""Compares the FLOPs of a compiled step with those that its method requires.

The required FLOPs are counted from the papers: which networks see which views,
and which of these passes need a gradient. A gradient costs two forward passes:
one for the inputs of every layer, and one for its weights. The first layer
needs no gradient of its input, which is an image, and none at all if the layer
is frozen. Recomputation by rematerialisation is not required and not counted.
Only convolutions and matrix products are counted. Normalisation, activations,
augmentation and the optimiser are extra work of a compiled step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sslx.experiment import Experiment
from sslx.methods.mae import MAE
from sslx.methods.moco import MoCo
from sslx.methods.mocov3 import MoCoV3
from sslx.methods.relative_loc import PATCHES, RelativeLoc
from sslx.methods.simclr import SimCLR
from sslx.methods.swav import CODE_VIEWS, SwAV


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
  needed = analytic(experiment)
  if needed is not None:
    needed /= devices * parts
    work += (
      f", the method needs {needed / 1e9:.2f} ({flops / needed:.3f} times)"
    )
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


def analytic(experiment: Experiment) -> float | None:
  """FLOPs that one step of the method requires; None for unknown methods."""
  step, b = experiment.step, experiment.data.batch_size
  shapes = [(b, *step.view_shape(slot)) for slot in step.slots]
  count = _COUNTS.get(type(step.method))
  return count and count(step.method, shapes)


def _simclr(method: SimCLR, views: list[tuple[int, ...]]) -> float:
  d, n = method.projector.dims[-1], 2 * views[0][0]
  network = sum(_trained(method, "projector", x) for x in views)
  return network + 3 * 2 * n * n * d  # anchors and candidates have gradients


def _moco(method: MoCo, slots: list[tuple[int, ...]]) -> float:
  queries = 2 if method.symmetric else 1
  b, d = slots[0][0], method.projector.dims[-1]
  trained = queries * _trained(method, "projector", slots[0])
  keys = queries * _forward(method, "projector", slots[-1])
  return trained + keys + queries * 2 * 2 * b * method.queue_size * d


def _swav(method: SwAV, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  network = sum(_trained(method, "projector", x) for x in views)
  past = 2 * CODE_VIEWS * method.queue_size * d * method.prototypes
  return network + 3 * 2 * b * len(views) * d * method.prototypes + past


def _relative_loc(method: RelativeLoc, views: list[tuple[int, ...]]) -> float:
  b, _, *patch = views[0]
  pairs = b * (PATCHES - 1)
  patches = (b * PATCHES, *patch)
  _, backbone = _matmuls(method.backbone, patches)
  d = _width(method.backbone, patches)
  head = pairs * 2 * method.head.hidden * (2 * d + method.head.classes)
  return backbone + 3 * head


def _mocov3(method: MoCoV3, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  predictor, _ = _matmuls(method.predictor, (b, d))
  trained = sum(_trained(method, "projector", x) + 3 * predictor for x in views)
  keys = sum(_forward(method, "projector", x) for x in views)
  # Keys need no gradient.
  return trained + keys + len(views) * 2 * 2 * b * b * d


def _mae(method: MAE, views: list[tuple[int, ...]]) -> float:
  b, images = views[0][0], jax.ShapeDtypeStruct(views[0], jnp.float32)
  visible, patches = method.visible(images)
  keep, restore = (jnp.zeros((b, n), jnp.int32) for n in (visible, patches))
  _, encoder = _matmuls(method.backbone, views[0], method="tokens", keep=keep)
  tokens = (b, 1 + visible, method.backbone.sizes[0])
  decoder, _ = _matmuls(
    method.decoder, tokens, restore=restore, **method.decoded(images)
  )
  return encoder + 3 * decoder


_COUNTS: dict[type, Callable[[Any, list[tuple[int, ...]]], float]] = {
  SimCLR: _simclr,
  MoCo: _moco,
  SwAV: _swav,
  RelativeLoc: _relative_loc,
  MoCoV3: _mocov3,
  MAE: _mae,
}


def _trained(method: Any, head: str, images: tuple[int, ...]) -> float:
  """FLOPs of the forward and backward pass of backbone and head."""
  _, backbone = _matmuls(method.backbone, images)
  d = _width(method.backbone, images)
  forward, _ = _matmuls(getattr(method, head), (images[0], d))
  return backbone + 3 * forward


def _forward(method: Any, head: str, images: tuple[int, ...]) -> float:
  """FLOPs of the forward pass of backbone and head."""
  backbone, _ = _matmuls(method.backbone, images)
  d = _width(method.backbone, images)
  return backbone + _matmuls(getattr(method, head), (images[0], d))[0]


def _width(backbone: Any, images: tuple[int, ...]) -> int:
  return jax.eval_shape(*_bound(backbone, images)).shape[-1]


def _bound(
  module: Any, shape: tuple[int, ...], **arguments: Any
) -> tuple[Any, ...]:
  """A module's forward pass, and the shapes of its arguments."""
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  init = lambda x: module.init(jax.random.key(0), x, train=False, **arguments)
  variables = jax.eval_shape(init, x)
  apply = lambda variables, x: module.apply(
    variables, x, train=True, mutable=["batch_stats"], **arguments
  )[0]
  return apply, variables, x


def _matmuls(
  module: Any, shape: tuple[int, ...], **arguments: Any
) -> tuple[float, float]:
  """FLOPs of the forward pass alone, and of forward and backward together."""
  apply, *shapes = _bound(module, shape, **arguments)
  counts = list(_counts(jax.make_jaxpr(apply)(*shapes).jaxpr))
  forward = sum(counts)
  saved = 2 if getattr(module, "frozen", ()) else 1
  return forward, 3 * forward - saved * counts[0]


def _counts(jaxpr: Any) -> Any:
  """Yields the FLOPs of each convolution and matrix product, in order."""
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      depth = math.prod(equation.invars[0].aval.shape[d] for d in contracted)
      yield 2 * depth * math.prod(equation.outvars[0].aval.shape)
    elif name == "conv_general_dilated":
      yield _convolution(equation)
    for inner in core.jaxprs_in_params(equation.params):
      yield from _counts(inner)


def _convolution(equation: Any) -> float:
  """FLOPs of a convolution; products with padding are not counted."""
  image, kernel = (x.aval for x in equation.invars)
  out = equation.outvars[0].aval
  numbers = equation.params["dimension_numbers"]
  (batch, _, *space) = numbers.lhs_spec
  (_, inputs, *taps) = numbers.rhs_spec
  (_, features, *places) = numbers.out_spec
  count = 2 * image.shape[batch] * kernel.shape[inputs] * out.shape[features]
  for d, (stride, (before, _)) in enumerate(
    zip(
      equation.params["window_strides"], equation.params["padding"], strict=True
    )
  ):
    place = np.arange(out.shape[places[d]])[:, None] * stride - before
    pixel = place + np.arange(kernel.shape[taps[d]])
    count *= np.sum((pixel >= 0) & (pixel < image.shape[space[d]]))
  return float(count)
