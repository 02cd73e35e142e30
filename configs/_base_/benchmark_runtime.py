"""How a protocol is run: only its own classifiers are evaluated."""


def get_config() -> dict:
  """Section `runtime`."""
  return {
    "runtime": {
      "seed": 0,
      "checkpoint": {
        "every_epochs": 1.0,
      },
      "evaluate": {
        "every_epochs": 10.0,
        "knn": None,
        "probe": None,
      },
    }
  }
