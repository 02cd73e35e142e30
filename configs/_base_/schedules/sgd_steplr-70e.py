"""SGD with warm-up and two steps, as MMSelfSup has relative location."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 70,
        "accumulate": 1,
        "optimizer": {
          "name": "sgd",
          "lr": 0.2,
          "lr_scaling": "linear",
          "lr_batch": 512,
          "momentum": 0.9,
          "nesterov": False,
          "weight_decay": 1e-4,
          "decay_multipliers": (("head/", 5.0),),
          "exclude_1d": False,
          "clip_norm": None,
        },
        "lr": {
          "kind": "step",
          "warmup_epochs": 5.0,
          "warmup_from": 0.1,
          "milestones": (30, 50),
          "gamma": 0.1,
          "per": "epoch",
        },
      }
    },
    sort_keys=False,
  )
