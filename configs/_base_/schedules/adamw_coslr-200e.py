"""AdamW, cosine to zero over 200 epochs."""


def get_config() -> dict:
  """Section `schedule`."""
  return {
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
  }
