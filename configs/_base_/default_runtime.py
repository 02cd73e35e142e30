"""How a run is run: devices, log, checkpoints, evaluation."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `runtime`."""
  return ConfigDict(
    {
      "runtime": {
        "seed": 0,
        "checkpoint": {
          "every_epochs": 1.0,
        },
        "evaluate": {
          "knn": {"k": (20, 10, 100, 200), "temperature": 0.07},
        },
      }
    },
    sort_keys=False,
  )
