"""LARS of MoCo v3, ten epochs of warm-up, cosine to zero.

Its ratio has |g + w p| where `larc` has |g| + w |p|: alike, as w is 1e-6.
"""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 100,
      "optimizer": {
        "name": "larc",
        "lr": 0.6,
        "momentum": 0.9,
        "weight_decay": 1e-6,
        "exclude_1d": True,
      },
      "lr": {
        "kind": "cosine",
        "warmup": 10.0,
      },
    }
  }
