"""LARS of MoCo v3 (`larc` here), ten epochs of warm-up, cosine to zero."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 100,
        "accumulate": 1,
        "optimizer": {
          "name": "larc",
          "lr": 0.6,
          "lr_scaling": "linear",
          "lr_batch": 256,
          "momentum": 0.9,
          "trust_coefficient": 0.001,
          "trust_clip": False,
          "weight_decay": 1e-6,
          "exclude_1d": True,
          "clip_norm": None,
        },
        "lr": {
          "kind": "cosine",
          "warmup_epochs": 10.0,
          "warmup_from": 0.0,
          "final": 0.0,
          "per": "step",
        },
      }
    },
    sort_keys=False,
  )
