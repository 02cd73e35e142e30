"""Of a short run on the generated shapes, which is looked at often."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Section `runtime`."""
  return inherit(
    "./default_runtime.py",
    runtime={
      "log_every": 16,
      "checkpoint": {"every_epochs": 6.0},
      "evaluate": {
        "every_epochs": 6.0,
        "pixels": True,
        "knn": {"k": (20, 10, 100), "temperature": 0.1},
      },
    },
  )
