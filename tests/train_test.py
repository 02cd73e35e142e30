"""With what a run starts."""

import types

import jax
import numpy as np
import pytest

from sslx import agree, experiment, train
from sslx.data import crops
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


@pytest.mark.parametrize("before", ["native", "simplejpeg", None])
def test_a_change_of_the_decoder_is_said(before, monkeypatch):
  monkeypatch.setattr(crops, "_native", None)
  built = tiny.build_method(tiny.method_config("simclr"))
  assert built.decoder == "simplejpeg"
  state = types.SimpleNamespace(step=np.int32(7))
  stored = types.SimpleNamespace(
    restore=lambda *_: (state, {"next_index": 7}),
    metadata=lambda step: {"decoder": before} if before and step == 7 else {},
  )
  said = []
  assert train._start(built, stored, said.append) == (state, True)
  told = "until step 7 the JPEG decoder was 'native', and here" in said[-1]
  assert told == (before == "native")
  assert len(said) == 1 + told


def test_processes_with_other_decoders_are_refused(monkeypatch):
  compared = []
  peers = types.SimpleNamespace(check_same=lambda *args: compared.append(args))
  for native in (object(), None):
    monkeypatch.setattr(crops, "_native", native)
    job = types.SimpleNamespace(peers=peers)
    agree.check_processes(job, tiny.config())
  (_, ours, differs, _), (_, theirs, *_) = compared
  assert differs(ours, ours) == ""
  assert differs(ours, theirs) == (
    "JPEG decoder is 'simplejpeg' there and 'native' in process 0"
  )
