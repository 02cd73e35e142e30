"""DINO, ViT-S/16, ImageNet, batch 1024, 300 epochs (official figures).

The "boosted" run of its README, which reports a kNN accuracy of 73.3 % and
76.0 %, linear.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A warmer teacher, and prototypes with trained scales."""
  return inherit(
    "./dino_vit-small-p16_8xb64-mcrop-2-8-bf16-coslr-100e_in1k-224-96.py",
    model={
      "head": {"trained_scale": True},
      # By epoch; the last of 30 epochs of warm-up has 0.07.
      "teacher_temperature": {
        "_delete_": True,
        "kind": "linear",
        "start": 0.04,
        "final": 0.07,
        "over": 29.0,
        "per": "epoch",
      },
    },
    data={"batch_size": 1024},
    schedule={
      "epochs": 300,
      "optimizer": {
        "rules": (
          ("", {"clip": 3.0}),
          ("head/(prototypes|scale)", {"freeze": 1.0}),
          # There a matrix of one column, which is decayed.
          ("head/scale", {"exclude": False}),
        ),
      },
      "lr": {"final": 5e-4},
    },
  )
