"""I-JEPA's AdamW: the weight decay rises along a cosine."""


def get_config() -> dict:
  """Section `schedule`; the same rate for any batch."""
  return {
    "schedule": {
      "epochs": 300,
      "optimizer": {
        "name": "adamw",
        "lr": 1e-3,
        "lr_scaling": "none",
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": {"kind": "cosine", "start": 0.04, "final": 0.4},
        # The mask token is decayed, as in the official code.
        "exclude_1d": True,
      },
      "lr": {
        "kind": "cosine",
        "warmup": 40.0,
        "warmup_from": 0.2,
        "final": 1e-3,
      },
    }
  }
