"""AdamW for ViTs: 40 epochs of warm-up, cosine to zero over 300 epochs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 300,
        "accumulate": 1,
        "optimizer": {
          "name": "adamw",
          "lr": 1.5e-4,
          "lr_scaling": "linear",
          "lr_batch": 256,
          "b1": 0.9,
          "b2": 0.999,
          "weight_decay": 0.1,
          "exclude": (),
          "exclude_1d": False,
          "clip_norm": None,
        },
        "lr": {
          "kind": "cosine",
          "warmup_epochs": 40.0,
          "warmup_from": 0.0,
          "final": 0.0,
          "per": "step",
        },
      }
    },
    sort_keys=False,
  )
