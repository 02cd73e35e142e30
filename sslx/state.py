"""The training state: one global tree, what a checkpoint holds."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes.

  Attributes:
    step: int32 scalar, steps taken.
    params: what the optimiser trains.
    model_state: BatchNorm statistics.
    opt_state: optax state of `params`.
    aux: what belongs to the method alone: key encoder, queue.
    probe: the online linear probe, or None.
    rng: uint32[2], the key data that every step's randomness is folded from.
  """

  step: jax.Array
  params: Any
  model_state: Any
  opt_state: Any
  aux: Any
  probe: Any
  rng: jax.Array
