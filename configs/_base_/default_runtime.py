"""How a run is run: devices, log, checkpoints, evaluation."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `runtime`."""
  return ConfigDict(
    {
      "runtime": {
        "seed": 0,
        "log_every": 50,
        "init_from": None,
        "profile": None,
        "custom_imports": (),
        "parallel": {
          "mode": "pjit",
          "rules": "replicated",
          "mesh": (),
          "grad_sum": "compute",
        },
        "checkpoint": {
          "every_epochs": 1.0,
          "keep_last": 2,
          "keep_every_epochs": None,
          "fall_back": False,
          "changed_data": False,
        },
        "evaluate": {
          "every_epochs": 10.0,
          "batch_size": 512,
          "features": (),
          "pixels": False,
          "knn": {"k": (20, 10, 100, 200), "temperature": 0.07},
          "probe": {"lr": 1e-3},
        },
      }
    },
    sort_keys=False,
  )
