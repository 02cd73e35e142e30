"""LARC as SwAV has it: no exclusions; prototypes frozen for an epoch."""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 200,
      "optimizer": {
        "name": "larc",
        "lr": 0.6,
        "momentum": 0.9,
        "weight_decay": 1e-6,
        "rules": (("prototypes", {"freeze": {"steps": 5005}}),),
      },
      "lr": {
        "kind": "cosine",
        "final": 0.001,
      },
    }
  }
