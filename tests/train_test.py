"""With what a run starts."""

import types

import jax
import numpy as np
import pytest

from sslx import experiment, train
from sslx.checkpoint import CheckpointError
from sslx.data.pipeline import iterator_state
from sslx.weights import load, names
from sslx.weights.source import Taken
from tests import tiny


@pytest.mark.parametrize("method", [*tiny.METHODS, "mae", "mocov3"])
def test_every_method_starts_with_the_weights_of_another_run(
  method, monkeypatch
):
  config = (
    tiny.vit_config if method in ("mae", "mocov3") else tiny.method_config
  )
  changed = config(method, runtime__init_from="elsewhere")
  build = (
    tiny.build_method if config is tiny.method_config else experiment.build
  )
  built = build(changed)
  state = jax.device_get(built.init_state())
  weights = jax.tree.map(lambda x: x + 1, (state.params, state.model_state))
  taken = Taken(*map(names.flat, weights), notes=[])
  monkeypatch.setattr(load.of_file, "take", lambda *_: taken)
  none = types.SimpleNamespace(restore=lambda *_: None)
  found, _ = train._start(built, none, lambda _: None)
  for tree, old in zip((found.params, found.model_state), weights, strict=True):
    jax.tree.map(np.testing.assert_array_equal, tree, old)
  # What a method keeps of an encoder follows it, without the predictor.
  for name, old in zip(("params", "model_state"), weights, strict=True):
    for part, copy in found.aux.get(name, {}).items():
      jax.tree.map(np.testing.assert_array_equal, copy, old[part])


def test_a_run_whose_images_come_in_another_order_is_refused_in_one_line():
  state = types.SimpleNamespace(step=np.int32(7))
  built = types.SimpleNamespace(abstract_state=None)

  def start(data):
    restore = lambda *_: (state, data)
    there = types.SimpleNamespace(restore=restore, directory="runs/a")
    return train._start(built, there, lambda _: None)

  assert start(iterator_state(7)) == (state, True)
  older = {"next_index": 7}  # before the order had a number
  for data in (older, iterator_state(8), iterator_state(7) | {"order": 3}):
    with pytest.raises(CheckpointError, match="init_from") as refused:
      start(data)
    assert str(refused.value).count("\n") == 0
    assert f"{data}, and not {iterator_state(7)}" in str(refused.value)
