"""SGD with momentum, cosine to zero over 200 epochs."""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 200,
      "optimizer": {
        "name": "sgd",
        "lr": 0.06,
        "lr_batch": 128,
        "momentum": 0.9,
        "weight_decay": 5e-4,
      },
      "lr": {
        "kind": "cosine",
      },
    }
  }
