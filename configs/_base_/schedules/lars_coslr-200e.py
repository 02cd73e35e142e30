"""LARS, ten epochs of warm-up, cosine by epochs to zero over 200 epochs."""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 200,
      "optimizer": {
        "name": "lars",
        "lr": 0.3,
        "momentum": 0.9,
        "weight_decay": 1e-6,
        "exclude_1d": True,
      },
      "lr": {
        "kind": "cosine",
        "warmup": 10.0,
        "warmup_from": 1e-4,
        "per": "epoch",
      },
    }
  }
