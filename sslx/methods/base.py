"""What a method is: a paper's algorithm as three pure functions."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from sslx.parallel import Axis

Params = Any
ModelState = Any
Aux = Any
Batch = dict[str, Any]


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
  """A frozen dataclass of hyper-parameters and modules; holds no arrays."""

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
    axis: Axis,
  ) -> tuple[jax.Array, Output]:
    """The loss of these examples.

    Args:
      params: what the optimiser trains.
      model_state: BatchNorm statistics.
      aux: the method's own state.
      batch: `views`, a tuple of normalised f32[b, s, s, 3]; `label`, int32[b],
        which a self-supervised method must not use.
      rng: the key of this step, the same on all devices.
      axis: identity in the global view, collectives in the per-device view.
    """

  def after_update(
    self, params: Params, aux: Aux, step: jax.Array
  ) -> tuple[Params, Aux]:
    """What the paper does after the optimiser step: EMA, projections."""

  def encode(
    self, params: Params, model_state: ModelState, images: jax.Array
  ) -> jax.Array:
    """f32[b, d] features of normalised f32[b, s, s, 3], for evaluation."""
