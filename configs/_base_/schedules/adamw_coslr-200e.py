"""AdamW, cosine to zero over 200 epochs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 200,
        "optimizer": {
          "name": "adamw",
          "lr": 1e-3,
          "b1": 0.9,
          "b2": 0.999,
          "weight_decay": 0.01,
          "exclude_1d": True,
        },
        "lr": {
          "kind": "cosine",
        },
      }
    },
    sort_keys=False,
  )
