"""AdamW with a tenth of the run as warm-up, then a cosine to zero."""


def get_config(lr: float = 1e-3, epochs: int = 10) -> dict:
  """Section `schedule`; the same rate for any batch."""
  return {
    "schedule": {
      "epochs": epochs,
      "optimizer": {
        "name": "adamw",
        "lr": lr,
        "lr_scaling": "none",
        "weight_decay": 0.05,
        "exclude_1d": True,
      },
      "lr": {
        "kind": "cosine",
        "warmup": {"share": 0.1},
      },
    }
  }
