"""LARS, ten epochs of warm-up, cosine to zero over 200 epochs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 200,
        "accumulate": 1,
        "optimizer": {
          "name": "lars",
          "lr": 0.3,
          "lr_scaling": "linear",
          "lr_batch": 256,
          "momentum": 0.9,
          "trust_coefficient": 0.001,
          "weight_decay": 1e-6,
          "exclude_1d": True,
          "clip_norm": None,
        },
        "lr": {
          "kind": "cosine",
          "warmup_epochs": 10.0,
          "warmup_from": 1e-4,
          "final": 0.0,
          "per": "step",
        },
      }
    },
    sort_keys=False,
  )
