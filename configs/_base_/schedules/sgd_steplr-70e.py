"""SGD with warm-up and two steps, as MMSelfSup has relative location."""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 70,
      "optimizer": {
        "name": "sgd",
        "lr": 0.2,
        "lr_batch": 512,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "rules": (("head/", {"weight_decay": 5.0}),),
      },
      "lr": {
        "kind": "step",
        "warmup": 5.0,
        "warmup_from": 0.1,
        "milestones": (30.0, 50.0),
        "per": "epoch",
      },
    }
  }
