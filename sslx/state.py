"""The training state: one tree of global arrays, saved in checkpoints."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class TrainState:
  """The training state.

  Attributes:
    step: int32 scalar, steps taken.
    params: the parameters that the optimiser trains.
    model_state: BatchNorm statistics.
    opt_state: optax state of `params`.
    aux: the method's own state, such as a key encoder or a queue.
    probe: state of the online linear probe, or None.
    rng: uint32[2], data of the key that each step folds its number into.
  """

  step: jax.Array
  params: Any
  model_state: Any
  opt_state: Any
  aux: Any
  probe: Any
  rng: jax.Array
