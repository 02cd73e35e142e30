"""What a method is: a paper's algorithm as three pure functions."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from sslx.config import ConfigError
from sslx.data.views import Slot, unshuffled
from sslx.parallel import Axis

Params = Any
ModelState = Any
Aux = Any
Batch = dict[str, Any]


class Plan(NamedTuple):
  """The run that a method is built for.

  Attributes:
    batch_size: global.
    steps_per_epoch: optimiser steps.
    total_steps: of the whole run.
  """

  batch_size: int
  steps_per_epoch: int
  total_steps: int


class Output(NamedTuple):
  """What a loss returns beside its value.

  Attributes:
    model_state: updated BatchNorm statistics.
    aux: updated state of the method.
    features: f32[b, d] backbone features of one view of each image, for the
      online probe and the collapse monitors.
    metrics: name to f32 scalar, means over the examples given.
  """

  model_state: ModelState
  aux: Aux
  features: jax.Array
  metrics: dict[str, jax.Array]


class Method(Protocol):
  """A frozen dataclass of hyper-parameters and modules; holds no arrays.

  A method that keeps a copy of an encoder in `aux` also has
  `adopt(params, model_state, aux)`, which gives `aux` where the weights of
  another run take the place of those of `init`. It may have `accumulates`, true
  if its loss is a mean over examples that nothing but BatchNorm groups couples,
  so that a batch may be worked on in parts; and
  `pictures(params, model_state, images, rng)`, which gives rows of normalised
  images, f32[rows, b, s, s, 3] by name, to be looked at. `published` is
  "teacher" if the paper evaluates the copy that `aux` holds under "params" and
  "model_state", and not what the optimiser trains.
  """

  def slots(self, views: int) -> tuple[Slot, ...]:
    """What `loss` is given, of so many views of each image.

    Raises:
      ConfigError: the method cannot do with that many.
    """

  def init(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws parameters; of `batch` only the shapes matter."""

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
    """The loss of these examples.

    Args:
      params: what the optimiser trains.
      model_state: BatchNorm statistics.
      aux: the method's own state.
      batch: `views`, a tuple of normalised f32[b, s, s, 3], one for each slot;
        `label`, int32[b], which a self-supervised method must not use; if some
        slot is shuffled `place` and `back`, see `loader.HostBatch`.
      rng: the key of this step, the same on all devices.
      step: int32 scalar, optimiser steps taken before this one.
      axis: identity in the global view, collectives in the per-device view.
    """

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """What the paper does after the optimiser step: EMA, projections."""

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> dict[str, jax.Array]:
    """Features of normalised f32[b, s, s, 3] images, for evaluation.

    Returns:
      f32[b, d] by name: "final" is the one that `Output.features` are of.
    """


def two_views(method: str, views: int) -> tuple[Slot, ...]:
  """The slots of a method that compares two views of each image.

  Raises:
    ConfigError: the data has another number of views.
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
  """Draws a chain of modules, each of which is given what the last puts out.

  Args:
    modules: by name, in the order of the chain.
    rng: split once for each.
    x: input of the first; only its shape matters.
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
  """All features of a backbone, with running statistics; heads are left out."""
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
    name: of its parameters in `params` and its statistics in `model_state`.
    params: of the method.
    model_state: of the method.
    x: input.
    axis: the data axis.
    **arguments: of the module's call.

  Returns:
    Its output, and its updated statistics.
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
