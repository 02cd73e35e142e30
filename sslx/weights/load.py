"""Starts a run from weights of another run, of an export or of another library.

Every tensor of the parts to load must exist and have the right shape. No tensor
may be left over, except those that a layout names as not part of a backbone.
The user may name further exceptions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath

from sslx import methods
from sslx.state import TrainState
from sslx.weights import names, of_file, of_run
from sslx.weights.source import InitFrom

# The last LayerNorm of a ViT, before or after the pooling, by the names of runs
# and of files.
_LAST_NORM = r"^(params/(backbone/)?)?(fc_)?norm[./]"


def start(
  source: str | InitFrom,
  method: methods.Method,
  state: TrainState,
  abstract: TrainState,
) -> tuple[TrainState, list[str]]:
  """Replaces weights in the state of step 0 by those of a run or a file.

  Networks that a method derives from the encoder, such as MoCo's key encoder,
  become copies of the loaded weights. A ViT with `pool_norm` also takes weights
  of one without; its `fc_norm` then keeps its initial values.

  Args:
    source: config section `runtime.init_from`.
    method: method of this run.
    state: state of step 0.
    abstract: the state as ShapeDtypeStructs with shardings.

  Returns:
    The new state, and messages for the user that say what was loaded.

  Raises:
    ConfigError: there are no such weights, or they do not fit.
    CheckpointError: the checkpoint of the other run cannot be read.
  """
  if isinstance(source, str):
    source = InitFrom(source)
  pool_norm = getattr(method.backbone, "pool_norm", False)
  if pool_norm:  # Networks are pretrained without it; see `ViT.pool_norm`.
    ignore = (*source.ignore, _LAST_NORM)
    source = dataclasses.replace(source, ignore=ignore)
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
  aux = method.adopt(state.params, state.model_state, state.aux)
  state = state.replace(aux=aux)
  notes = [f"weights from {source.path}", *taken.notes]
  if pool_norm and "backbone/fc_norm/scale" not in taken.params:
    notes.append("fc_norm starts anew: there the last norm is before pooling")
  return state, notes


def _placed(taken: dict[str, Any], now: Any, abstract: Any) -> Any:
  """The tree `now` with the loaded leaves, sharded as in `abstract`."""
  leaves = names.flat(now)
  wanted = names.flat(abstract)
  for path, x in taken.items():
    if not isinstance(x, jax.Array):
      # Each process has the whole array and gives its devices their shards.
      x = np.asarray(x, wanted[path].dtype)
      x = jax.make_array_from_callback(
        x.shape, wanted[path].sharding, x.__getitem__
      )
    leaves[path] = x
  return names.unflat(now, leaves)
