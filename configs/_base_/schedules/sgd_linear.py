"""SGD for a linear classifier: a cosine to zero, no warm-up."""


def get_config(
  lr: float = 0.1,
  epochs: int = 100,
  weight_decay: float = 0.0,
  nesterov: bool = False,
  per: str = "step",
) -> dict:
  """Section `schedule`; `lr` is for a batch of 256."""
  return {
    "schedule": {
      "epochs": epochs,
      "optimizer": {
        "name": "sgd",
        "lr": lr,
        "momentum": 0.9,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
      },
      "lr": {
        "kind": "cosine",
        "per": per,
      },
    }
  }
