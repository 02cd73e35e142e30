"""LARC as SwAV has it: no exclusions; prototypes frozen for an epoch."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 200,
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
          "exclude_1d": False,
          "freeze": ("prototypes",),
          "freeze_steps": 5005,
          "clip_norm": None,
        },
        "lr": {
          "kind": "cosine",
          "warmup_epochs": 0.0,
          "warmup_from": 0.0,
          "final": 0.001,
          "per": "step",
        },
      }
    },
    sort_keys=False,
  )
