"""AdamW for ViTs: 40 epochs of warm-up, cosine to zero over 300 epochs."""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 300,
      "optimizer": {
        "name": "adamw",
        "lr": 1.5e-4,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.1,
      },
      "lr": {
        "kind": "cosine",
        "warmup": 40.0,
      },
    }
  }
