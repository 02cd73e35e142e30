"""Who may use a workdir, and with what a run starts."""

import json
import types

import jax
import numpy as np
import pytest

from sslx import config as config_lib
from sslx import experiment, train
from sslx.config import ConfigError
from sslx.weights import load, names
from sslx.weights.source import Taken
from tests import tiny


def claim(workdir, overwrite=False, **changes):
  notes = []
  train.claim_workdir(workdir, tiny.config(**changes), overwrite, notes.append)
  return "\n".join(notes)


def test_a_new_workdir_gets_the_resolved_config(tmp_path):
  claim(tmp_path / "a" / "b")
  saved = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
  assert saved == json.loads(config_lib.to_json(tiny.config()))


@pytest.mark.parametrize(
  "changes",
  [
    {"runtime__parallel__mode": "pmap"},
    {"runtime__log_every": 7},
    {"runtime__checkpoint__keep_last": 5},
    {"runtime__evaluate__every_epochs": 2.0},
    {"data__data_dir": "/elsewhere"},
    {"schedule__accumulate": 2},
  ],
)
def test_what_does_not_change_the_result_may_differ(tmp_path, changes):
  assert claim(tmp_path) == ""
  (key,) = changes
  assert f"config.{key.replace('__', '.')}: " in claim(tmp_path, **changes)


@pytest.mark.parametrize(
  "changes",
  [
    {"runtime__seed": 1},
    {"runtime__evaluate__probe__lr": 0.5},
    {"model__temperature": 0.7},
    {"data__batch_size": 32},
    {"data__views__0__size": 8},
    {"schedule__epochs": 2},
  ],
)
def test_what_changes_the_result_is_refused_unless_overwritten(
  tmp_path, changes
):
  claim(tmp_path)
  (tmp_path / "checkpoints").mkdir()
  (key,) = changes
  with pytest.raises(ConfigError, match="holds a run with another") as error:
    claim(tmp_path, **changes)
  assert f"config.{key.replace('__', '.')}: " in str(error.value)
  assert "--overwrite" in str(error.value)
  claim(tmp_path, overwrite=True, **changes)
  assert not (tmp_path / "checkpoints").exists()
  assert claim(tmp_path, **changes) == ""


def test_overwrite_leaves_alone_what_is_not_of_a_run(tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  claim(tmp_path)
  claim(tmp_path, overwrite=True)
  assert (tmp_path / "thesis.tex").exists()


def test_checkpoints_without_a_config_are_refused(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  for overwrite in (False, True):
    with pytest.raises(ConfigError, match=r"no config\.json"):
      claim(tmp_path, overwrite=overwrite)


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
  none = types.SimpleNamespace(restore=lambda _: None)
  found = train._start(built, none, lambda _: None)
  for tree, old in zip((found.params, found.model_state), weights, strict=True):
    jax.tree.map(np.testing.assert_array_equal, tree, old)
  # What a method keeps of an encoder follows it, without the predictor.
  for name, old in zip(("params", "model_state"), weights, strict=True):
    for part, copy in found.aux.get(name, {}).items():
      jax.tree.map(np.testing.assert_array_equal, copy, old[part])
