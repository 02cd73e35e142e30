"""iBOT, ViT-S/16, ImageNet, batch 1024, 800 epochs (official figures).

The command of its README, which reports a kNN accuracy of 75.2 %, 77.9 %,
linear, and 82.3 % after fine-tuning. There positions are resized to a small
crop without antialiasing.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet iBOT recipes."""
  return inherit(
    "../_base_/models/ibot_vit-small-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/dino.py:count=10,between=0.25",
    "../_base_/schedules/adamw_dino-100e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 1024},
    schedule={
      "epochs": 800,
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
