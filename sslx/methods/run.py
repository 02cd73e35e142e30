"""One computation of a loss: what a method sees of a training step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sslx import schedules
from sslx.axis import Axis
from sslx.data import augment
from sslx.schedules import Value

Params = Any
ModelState = Any
Aux = dict[str, Any]
Batch = dict[str, Any]

# Where `Aux` keeps the teacher; all other keys of it are buffers.
_TEACHER = ("params", "model_state")


def buffers_of(aux: Aux) -> Aux:
  """Returns the buffers in `aux`, without the teacher."""
  return {k: x for k, x in aux.items() if k not in _TEACHER}


class Output(NamedTuple):
  """What a step needs of a loss in addition to its value.

  Attributes:
    model_state: updated BatchNorm statistics.
    aux: updated buffers, and the teacher's BatchNorm statistics.
    features: f32[b, d] backbone features of one view of each image, by the
      evaluated network, for the online probe and the collapse monitors.
    metrics: f32 scalars by name, means over the examples given.
  """

  model_state: ModelState
  aux: Aux
  features: jax.Array
  metrics: dict[str, jax.Array]


class Run:
  """One computation of a loss: its data, its networks and its state.

  `run(name, x)` calls a network in training mode, and `run.teacher(name, x)`
  the teacher's. The loss must set `features`; it may set `metrics` and replace
  values of `buffers`.

  Attributes:
    views: normalised f32[b, *view.shape], one for each slot of the method.
    index: int32[b], the number of each image in the set.
    labels: int32[b], the class of each image, or -1. Only methods that learn
      from labels read them.
    back: int32[b], the global row of the shuffled slots that holds each
      example; None if no slot is shuffled.
    key: the key of this step, the same on all devices.
    keys: [b] keys of the examples for this step. They depend on the places of
      the examples in the global batch, not on the devices.
    params: parameters by network, and those that `Method.draw` adds.
    buffers: the method's own arrays, such as a queue, by name.
    step: int32 scalar, optimiser steps taken before this one.
    progress: f32 scalar, the share of the run that is done, 0 to 1.
    axis: identity in the global view, collectives in the per-device view.
    features: see `Output`.
    metrics: see `Output`.
  """

  def __init__(
    self,
    method: Any,
    params: Params,
    model_state: ModelState,
    aux: Aux,
    batch: Batch,
    rng: jax.Array,
    step: jax.Array,
    axis: Axis,
  ):
    """Prepares the loss of these examples.

    Args:
      method: the `Method`.
      params: the parameters that the optimiser trains.
      model_state: BatchNorm statistics.
      aux: the teacher and the buffers.
      batch: `views`, `index`, `label` and, if some slot is shuffled, `back`.
      rng: the key of this step, the same on all devices.
      step: int32 scalar, optimiser steps taken before this one.
      axis: the data axis.
    """
    self._method = method
    self._model_state = dict(model_state)
    self._teacher_params = aux.get("params", {})
    self._teacher_state = dict(aux.get("model_state", {}))
    self.params = params
    self.buffers = buffers_of(aux)
    self.views = batch["views"]
    self.index, self.labels = batch.get("index"), batch.get("label")
    self.back = batch.get("back")
    places = axis.positions(len(self.views[0]))
    self.key, self.keys = rng, augment.example_keys(rng, places)
    self.step, self.axis = step, axis
    self.progress = jnp.float32(step) / method.plan.total_steps
    self.features, self.metrics = None, {}

  def __call__(self, name: str, x: jax.Array, **arguments: Any) -> Any:
    """Calls a network in training mode; updates its BatchNorm statistics.

    Args:
      name: name of the network.
      x: its input.
      **arguments: further arguments of the module's call.
    """
    network = getattr(self._method, name)
    y, self._model_state[name] = self._apply(
      network, self.params[name], self._model_state[name], x, arguments
    )
    return y

  def teacher(self, name: str, x: jax.Array, **arguments: Any) -> Any:
    """Calls the teacher's copy of a network, in training mode, as `__call__`.

    No gradient flows through the result. Without `keys` it drops no branch.
    """
    network = getattr(self._method, name)
    if getattr(network, "drop_path", 0) and "keys" not in arguments:
      network = network.clone(drop_path=0.0)
    params, state = self._teacher_params[name], self._teacher_state[name]
    y, self._teacher_state[name] = self._apply(
      network, params, state, x, arguments
    )
    return jax.lax.stop_gradient(y)

  def frozen(self, name: str, x: jax.Array, **arguments: Any) -> Any:
    """Calls a network as in an evaluation, with running statistics.

    Nothing of it changes, and no gradient flows through the result.
    """
    variables = {
      "params": self.params[name], "batch_stats": self._model_state[name]
    }  # fmt: skip
    network = getattr(self._method, name)
    y = network.apply(variables, x, train=False, axis=self.axis, **arguments)
    return jax.lax.stop_gradient(y)

  def drop(self, *views: int) -> dict[str, jax.Array]:
    """Arguments with which a backbone drops branches, if it has `drop_path`.

    Args:
      *views: numbers of the views that the backbone is given, those of an image
        adjacent. Each has keys of its own; a teacher has the same.
    """
    if not getattr(self._method.backbone, "drop_path", 0):
      return {}
    keys = [augment.fold(self.keys, n) for n in views]
    return {"keys": jnp.stack(keys, axis=1).reshape(-1)}

  def at(self, value: Value) -> jax.Array | float:
    """Returns the value of a schedule at this step; a number as it is."""
    return schedules.curve(value, self._method.plan)(self.step)

  def _apply(
    self, network: Any, params: Params, state: ModelState, x: Any,
    arguments: dict[str, Any],
  ) -> tuple[Any, Any]:  # fmt: skip
    y, updated = network.apply(
      {"params": params, "batch_stats": state},
      x,
      train=True,
      axis=self.axis,
      mutable=["batch_stats"],
      **arguments,
    )
    return y, updated.get("batch_stats", {})

  def loss(self) -> tuple[jax.Array, Output]:
    """Computes the method's loss, f32 scalar, and what the step needs with it.

    Raises:
      TypeError: the loss or a metric is not a scalar, or `features` is not
        f32[b, d].
    """
    value = self._method.loss(self)
    loss = f"{type(self._method).__name__}.loss"
    if jnp.shape(value):
      raise TypeError(f"{loss} has shape {jnp.shape(value)}; it is a scalar.")
    if getattr(self.features, "ndim", 0) != 2:
      raise TypeError(f"{loss} must set run.features to f32[b, d] features.")
    for name, x in self.metrics.items():
      if jnp.shape(x):
        raise TypeError(
          f"{loss} sets run.metrics[{name!r}] of shape {jnp.shape(x)}; a metric"
          " is a scalar."
        )
    aux = self.buffers
    if self._teacher_state:
      aux = {**aux, "model_state": self._teacher_state}
    return value, Output(self._model_state, aux, self.features, self.metrics)
