"""SGD with momentum, cosine to zero over 200 epochs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 200,
        "accumulate": 1,
        "optimizer": {
          "name": "sgd",
          "lr": 0.06,
          "lr_scaling": "linear",
          "lr_batch": 128,
          "momentum": 0.9,
          "nesterov": False,
          "weight_decay": 5e-4,
          "exclude_1d": False,
          "clip_norm": None,
        },
        "lr": {
          "kind": "cosine",
          "warmup_epochs": 0.0,
          "warmup_from": 0.0,
          "final": 0.0,
          "per": "step",
        },
      }
    },
    sort_keys=False,
  )
