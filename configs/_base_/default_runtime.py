"""How a run is run: devices, log, checkpoints, evaluation."""


def get_config() -> dict:
  """Section `runtime`."""
  return {
    "runtime": {
      "seed": 0,
      "checkpoint": {
        "every_epochs": 1.0,
      },
      "evaluate": {
        "knn": {"k": (20, 10, 100, 200), "temperature": 0.07},
      },
    }
  }
