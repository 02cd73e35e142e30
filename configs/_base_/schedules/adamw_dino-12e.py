"""AdamW for a ViT with prototypes in a short run: a rate of 1e-3 for 64 images.

Each gradient is at most 3, as in DINO's code. Prototypes are never trained: in
a short run on CIFAR-10, trained ones made the targets less sharp
(configs/README.md).
"""


def get_config() -> dict:
  """Section `schedule`."""
  return {
    "schedule": {
      "epochs": 12,
      "optimizer": {
        "name": "adamw",
        "lr": 4e-3,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.01,
        "exclude_1d": True,
        "rules": (
          ("", {"clip": 3.0}),
          ("head/prototypes", {"freeze": True}),
        ),
      },
      "lr": {"kind": "cosine", "warmup": 1.0},
    }
  }
