"""AdamW for a ViT with prototypes: the weight decay rises along a cosine.

As in DINO's code: 10 epochs of warm-up, a rate that ends at 1e-6 for a batch of
512, gradients of at most 3 each, and prototypes frozen for an epoch.
"""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 100,
      "optimizer": {
        "name": "adamw",
        "lr": 5e-4,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": {"kind": "cosine", "start": 0.04, "final": 0.4},
        "exclude_1d": True,
        "rules": (
          ("", {"clip": 3.0}),
          ("head/prototypes", {"freeze": 1.0}),
        ),
      },
      "lr": {
        "kind": "cosine",
        "warmup": 10.0,
        "final": 1e-3,
      },
    }
  }
