"""SGD with momentum, cosine to zero over 200 epochs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return ConfigDict(
    {
      "schedule": {
        "epochs": 200,
        "optimizer": {
          "name": "sgd",
          "lr": 0.06,
          "lr_batch": 128,
          "momentum": 0.9,
          "weight_decay": 5e-4,
        },
        "lr": {
          "kind": "cosine",
        },
      }
    },
    sort_keys=False,
  )
