"""The interface of a method: a paper's algorithm as pure functions."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data.views import Slot, unshuffled

Params = Any
ModelState = Any
Aux = Any
Batch = dict[str, Any]


class Plan(NamedTuple):
  """The run that a method is built for.

  Attributes:
    batch_size: global batch size.
    steps_per_epoch: optimiser steps per epoch.
    total_steps: optimiser steps of the whole run.
  """

  batch_size: int
  steps_per_epoch: int
  total_steps: int


class Output(NamedTuple):
  """What a loss returns in addition to its value.

  Attributes:
    model_state: updated BatchNorm statistics.
    aux: updated state of the method.
    features: f32[b, d] backbone features of one view of each image, for the
      online probe and the collapse monitors.
    metrics: f32 scalars by name, means over the examples given.
  """

  model_state: ModelState
  aux: Aux
  features: jax.Array
  metrics: dict[str, jax.Array]


class Method(Protocol):
  """A frozen dataclass of hyper-parameters and modules; holds no arrays.

  A method may also define:

  * `adopt(params, model_state, aux)`: returns the `aux` to use when other
    weights have replaced those drawn by `init`. Required if `aux` holds a copy
    of an encoder.
  * `accumulates`: True if the loss is a mean over examples and only BatchNorm
    groups couple them, so that a batch can be cut into micro-batches.
  * `pictures(params, model_state, images, rng)`: returns rows of normalised
    images to display, f32[rows, b, s, s, 3] by name.
  * `published`: "teacher" if the paper evaluates the copy that `aux` holds
    under "params" and "model_state", instead of the parameters that the
    optimiser trains.
  """

  def slots(self, views: int) -> tuple[Slot, ...]:
    """Returns the slots that `loss` needs, given `views` views of each image.

    Raises:
      ConfigError: the method cannot use that number of views.
    """

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the parameters; only the shapes of `batch` matter."""

  def loss(
    self,
    params: Params,
    model_state: ModelState,
    aux: Aux,
    batch: Batch,
    rng: jax.Array,
    step: jax.Array,
    axis: Axis,
  ) -> tuple[jax.Array, Output]:
    """Computes the loss of these examples.

    Args:
      params: the parameters that the optimiser trains.
      model_state: BatchNorm statistics.
      aux: the method's own state.
      batch: `views`, a tuple of normalised f32[b, s, s, 3], one for each slot;
        `label`, int32[b], which a self-supervised method must not use; and, if
        some slot is shuffled, `place` and `back`: see `loader.HostBatch`.
      rng: the key of this step, the same on all devices.
      step: int32 scalar, optimiser steps taken before this one.
      axis: identity in the global view, collectives in the per-device view.
    """

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """Does what the paper does after an optimiser step: EMA, projections."""

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Computes features of normalised f32[b, s, s, 3] images, for evaluation.

    Returns:
      f32[b, d] by name; "final" names the features in `Output.features`.
    """


def two_views(method: str, views: int) -> tuple[Slot, ...]:
  """Returns the slots of a method that compares two views of each image.

  Raises:
    ConfigError: the number of views is not 2.
  """
  if views != 2:
    raise ConfigError(
      f"config.data.views are {views} views of each image; {method} compares 2."
      " Set count=2 in one view, or give two."
    )
  return unshuffled(2)


def init(
  modules: dict[str, Any], rng: jax.Array, x: jax.Array
) -> tuple[dict[str, Params], dict[str, ModelState]]:
  """Initialises a chain of modules: each takes the output of the one before.

  Args:
    modules: by name, in the order of the chain.
    rng: split into one key for each module.
    x: input of the first module; only its shape matters.
  """
  params, model_state = {}, {}
  keys = jax.random.split(rng, len(modules))
  for key, (name, module) in zip(keys, modules.items(), strict=True):
    x, variables = module.init_with_output(key, x, train=False)
    params[name] = variables["params"]
    model_state[name] = variables.get("batch_stats", {})
  return params, model_state


def encode(
  backbone: Any, params: Params, model_state: ModelState, images: jax.Array
) -> dict[str, jax.Array]:
  """Computes all features of a backbone, with running statistics, no heads."""
  variables = {
    "params": params["backbone"],
    "batch_stats": model_state["backbone"],
  }
  return backbone.apply(variables, images, train=False, every=True)


def apply(
  module: Any,
  name: str,
  params: Params,
  model_state: ModelState,
  x: jax.Array,
  axis: Axis,
  **arguments: Any,
) -> tuple[Any, Any]:
  """Runs a module in training mode.

  Args:
    module: a Linen module.
    name: key of its parameters in `params`, of its statistics in `model_state`.
    params: parameters of the method.
    model_state: BatchNorm statistics of the method.
    x: input.
    axis: the data axis.
    **arguments: further arguments of the module's call.

  Returns:
    The module's output, and its updated statistics.
  """
  y, updated = module.apply(
    {"params": params[name], "batch_stats": model_state[name]},
    x,
    train=True,
    axis=axis,
    mutable=["batch_stats"],
    **arguments,
  )
  return y, updated.get("batch_stats", {})
