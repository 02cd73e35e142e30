"""AdamW, cosine to zero over 200 epochs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 200,
        "accumulate": 1,
        "optimizer": {
          "name": "adamw",
          "lr": 1e-3,
          "lr_scaling": "linear",
          "lr_batch": 256,
          "b1": 0.9,
          "b2": 0.999,
          "weight_decay": 0.01,
          "exclude_1d": True,
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
