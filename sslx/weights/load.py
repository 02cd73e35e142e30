"""Starts a run from weights: another run's, our own exports', other libraries'.

Every tensor of what is taken must be there and fit, and nothing may be left
over but what a layout names as no part of a backbone, or the user.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from etils import epath

from sslx import methods
from sslx.state import TrainState
from sslx.weights import names, of_file, of_run
from sslx.weights.source import InitFrom


def start(
  source: str | InitFrom,
  method: methods.Method,
  state: TrainState,
  abstract: TrainState,
) -> tuple[TrainState, list[str]]:
  """The state of step 0, with the weights of another run or a file.

  What a method keeps of an encoder, such as MoCo's key encoder, becomes a copy
  of the weights that were taken.

  Args:
    source: config section `runtime.init_from`.
    method: of this run.
    state: of step 0.
    abstract: the same, ShapeDtypeStructs with shardings.

  Returns:
    The new state, and what was taken, for the user.

  Raises:
    ConfigError: there are no such weights, or they do not fit.
    CheckpointError: of a run, that its checkpoint cannot be read.
  """
  if isinstance(source, str):
    source = InitFrom(source)
  params, model_state = abstract.params, abstract.model_state
  if (epath.Path(source.path) / "checkpoints").is_dir():
    trees = {"params": params, "model_state": model_state}
    taken = of_run.take(source, method, trees)
  else:
    trees = {
      "params": params["backbone"],
      "batch_stats": model_state["backbone"],
    }
    taken = of_file.take(source, method.backbone, trees)
  state = state.replace(
    params=_placed(taken.params, state.params, params),
    model_state=_placed(taken.model_state, state.model_state, model_state),
  )
  if hasattr(method, "adopt"):
    aux = method.adopt(state.params, state.model_state, state.aux)
    state = state.replace(aux=aux)
  return state, [f"weights from {source.path}", *taken.notes]


def _placed(taken: dict[str, Any], now: Any, abstract: Any) -> Any:
  """The tree `now` with what was taken, laid out as `abstract` says."""
  leaves = names.flat(now)
  wanted = names.flat(abstract)
  for path, x in taken.items():
    if not isinstance(x, jax.Array):
      # Each process has all of it, and gives its devices their part.
      x = np.asarray(x, wanted[path].dtype)
      x = jax.make_array_from_callback(
        x.shape, wanted[path].sharding, x.__getitem__
      )
    leaves[path] = x
  return names.unflat(now, leaves)
