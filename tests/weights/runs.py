"""Runs that were never trained: a config and a checkpoint of random weights."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import methods
from sslx.checkpoint import Checkpoint, Checkpoints
from sslx.data import views as views_lib
from sslx.data.pipeline import Data
from sslx.parallel import Parallel, Partitioner
from sslx.state import TrainState
from sslx.step import example_batch
from tests import tiny

STEP = 3


def resnet(depth=18, **changes) -> ConfigDict:
  """SimCLR on a ResNet of the usual widths, with the usual stem."""
  usual = {
    "model__backbone__depth": depth,
    "model__backbone__width": 1.0,
    "model__backbone__stem": "imagenet",
    "data__views__0__size": 64,
  }
  return tiny.config(**usual | changes)


def abstract(config: ConfigDict):
  """The method, and ShapeDtypeStructs of what its `init` gives."""
  data = config_lib.build(Data, config.data, "data")
  method = methods.build(config.model, methods.Plan(data.batch_size, 1, 1))
  slots = method.slots(views_lib.each(data.views))
  batch = example_batch(data.views, slots, data.channels)
  return method, jax.eval_shape(method.init, jax.random.key(0), batch)


def drawn(tree, seed=0):
  """Arbitrary numbers, so that no zero or one hides a layer."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    kind = getattr(path[-1], "key", "")
    if kind == "kernel":
      inputs = max(1, leaf.size // leaf.shape[-1])
      if "qkv" in jax.tree_util.keystr(path):
        inputs = leaf.shape[0]
      x = rng.normal(0, inputs**-0.5, leaf.shape)
    elif kind in ("scale", "var", "gamma"):
      x = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      x = rng.normal(0, 0.3, leaf.shape)
    return x.astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, tree)


def save(workdir: pathlib.Path, config: ConfigDict, seed=0) -> TrainState:
  """Writes the workdir of a run of this config; returns its state."""
  _, (params, model_state, aux) = abstract(config)
  state = TrainState(
    step=jnp.int32(STEP),
    params=drawn(params, seed),
    model_state=drawn(model_state, seed),
    opt_state=None,
    aux=drawn(aux, seed + 1),
    probe=None,
    rng=jnp.zeros(2, jnp.uint32),
  )
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "config.json").write_text(config_lib.to_json(config))
  rows = [{"step": 0, "eval/knn_20": 0.1}, {"step": STEP, "eval/knn_20": 0.5}]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (workdir / "metrics.jsonl").write_text(lines)
  saved = Checkpoints(workdir / "checkpoints", Checkpoint(), 10)
  saved.save(STEP, jax.tree.map(jnp.asarray, state), {"next_index": STEP})
  saved.close()
  return state


def start(config: ConfigDict, source, seed=9):
  """State and notes of a run of this config that starts from `source`."""
  from sslx.weights import load

  method, (params, model_state, aux) = abstract(config)
  state = TrainState(
    step=jnp.int32(0),
    params=drawn(params, seed),
    model_state=drawn(model_state, seed),
    opt_state=None,
    aux=drawn(aux, seed),
    probe=None,
    rng=jnp.zeros(2, jnp.uint32),
  )
  partitioner = Partitioner.create(Parallel(), jax.devices()[:1])
  laid_out = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    partitioner.state_shardings(state),
  )
  state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, laid_out))
  return load.start(source, method, state, laid_out)
