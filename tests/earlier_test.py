"""Configs that earlier versions stored become those of this version."""

import json

import pytest

from sslx import config as config_lib
from sslx import earlier, settings
from tests import tiny

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
  assert settings.fill(earlier.translated(old)) == settings.fill(now)
  assert earlier.translated(now) == now


def test_all_rules_are_kept():
  optimizer = {
    "freeze": ["patch"],
    "lr_multipliers": [["head", 0.1]],
    "decay_multipliers": [["head", 2.0]],
    "exclude": ["bias$"],
  }
  old = {"model": {}, "schedule": {"optimizer": optimizer}}
  (now,) = earlier.translated(old)["schedule"].values()
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
