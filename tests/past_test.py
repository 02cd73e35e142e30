"""Runs and weights of older versions of sslx, whose configs have old keys."""

import json

import numpy as np
import pytest
from etils import epath

from sslx import config as config_lib
from sslx import past, settings
from sslx import workdir as workdir_lib
from sslx.config import ConfigError, fingerprint
from sslx.weights import facts
from sslx.weights.run import open_run, read_config
from tests import tiny
from tests.weights import runs

STYLES = {"mae": ("xavier", "column"), "mocov3": ("xavier_qkv", "row")}


def with_style(section, style):
  old = {k: x for k, x in section.items()
         if k not in ("weight_init", "position_order")}  # fmt: skip
  return old | {"style": style}


@pytest.mark.parametrize("style", STYLES)
def test_the_style_of_an_old_vit_is_its_weights_and_positions(style, tmp_path):
  config = tiny.vit_config("mocov3" if style == "mocov3" else "mae")
  backbone = config.model.backbone
  assert (backbone.weight_init, backbone.position_order) == STYLES[style]
  path = epath.Path(tmp_path) / "run"
  state = runs.save(path, config)
  stored = json.loads((path / "config.json").read_text())
  section = stored["model"]["backbone"]
  stored["model"]["backbone"] = with_style(section, style)
  text = json.dumps(stored)
  (path / "config.json").write_text(text)

  # It can be opened, exported and started from.
  assert fingerprint(read_config(path)) == fingerprint(config)
  run = open_run(path)
  np.testing.assert_array_equal(
    run.params["backbone"]["cls_token"], state.params["backbone"]["cls_token"]
  )
  facts.check_own(json.dumps(with_style(section, style)), run.backbone, "f")
  other = run.backbone.clone(
    position_order={"row": "column", "column": "row"}[backbone.position_order]
  )
  with pytest.raises(ConfigError, match="position_order '.*' there and"):
    facts.check_own(with_style(section, style), other, "f")

  # It can go on, and is then a run of today.
  notes = []
  workdir_lib.claim(path, config, False, notes.append).release()
  assert not notes
  assert "style" not in (path / "config.json").read_text()


def test_other_keys_stay():
  stored = {"model": {"backbone": {"name": "mine", "style": "mae"}}, "data": {}}
  assert past.config(stored) == stored
  stored = {"model": {"backbone": {"name": "vit", "style": "new"}}}
  assert past.config(stored) == stored


SELFSUP = tiny.ROOT / "configs" / "selfsup"
# What the config of a run said before its keys were renamed, by recipe.
BEFORE = {
  "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96": {
    "model.queue_start_epoch": 15,
    "schedule.lr.warmup_epochs": 0.0,
    "schedule.lr.milestones": [],
    "schedule.optimizer.freeze": ["prototypes"],
    "schedule.optimizer.freeze_steps": 5005,
    "schedule.optimizer.exclude": [],
    "schedule.optimizer.decay_multipliers": [],
    "schedule.optimizer.lr_multipliers": [],
  },
  "relative-loc_resnet50_8xb64-steplr-70e_in1k": {
    "schedule.lr.warmup_epochs": 5.0,
    "schedule.lr.milestones": [30, 50],
    "schedule.optimizer.decay_multipliers": [["head/", 5.0]],
    "schedule.optimizer.freeze": [],
    "schedule.optimizer.freeze_steps": None,
  },
  "mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k": {
    "model.momentum": 0.99,
    "schedule.lr.warmup_epochs": 40.0,
  },
}
GONE = {
  "model": {"queue_start"},
  "schedule": {"steps", "images"},
  "schedule.lr": {"warmup", "start", "over"},
  "schedule.optimizer": {"rules"},
}


@pytest.mark.parametrize("recipe", BEFORE)
def test_the_config_of_an_earlier_run_is_that_of_now(recipe):
  now = json.loads(config_lib.to_json(settings.load(f"{SELFSUP}/{recipe}.py")))
  old = json.loads(json.dumps(now))
  for path, keys in GONE.items():
    for key in keys:
      at(old, path).pop(key, None)
  for path, value in BEFORE[recipe].items():
    above, _, key = path.rpartition(".")
    at(old, above)[key] = value
  assert settings.fill(past.config(old)) == settings.fill(now)
  assert past.config(now) == now


def test_all_rules_are_kept():
  optimizer = {
    "freeze": ["patch"],
    "lr_multipliers": [["head", 0.1]],
    "decay_multipliers": [["head", 2.0]],
    "exclude": ["bias$"],
  }
  old = {"model": {}, "schedule": {"optimizer": optimizer}}
  (now,) = past.config(old)["schedule"].values()
  assert now == {
    "rules": [
      ["patch", {"freeze": True}],
      ["head", {"weight_decay": 2.0}],
      ["head", {"lr": 0.1}],
      ["bias$", {"exclude": True}],
    ]
  }


def at(tree, path):
  for key in path.split("."):
    tree = tree[key]
  return tree
