"""LeJEPA's AdamW: an epoch of warm-up, a cosine to a thousandth, 100 epochs."""


def get_config() -> dict:
  """Section `schedule`; the same rate for any batch, decay of all weights."""
  return {
    "schedule": {
      "epochs": 100,
      "optimizer": {
        "name": "adamw",
        "lr": 5e-4,
        "lr_scaling": "none",
        "weight_decay": 0.05,
      },
      "lr": {
        "kind": "cosine",
        "warmup": 1.0,
        "warmup_from": 0.01,
        "final": 0.001,
      },
    }
  }
