"""DINO, ResNet-50, ImageNet, batch 512, 100 epochs (official figures).

The command of its README, which gives a log and no accuracy.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """SGD, a constant weight decay, and smaller crops."""
  return inherit(
    "../_base_/models/dino_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/dino.py:between=0.14",
    "../_base_/schedules/sgd_coslr-200e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 512},
    schedule={
      "epochs": 100,
      "optimizer": {
        "lr": 0.03,
        "lr_batch": 256,
        "weight_decay": 1e-4,
        "exclude_1d": True,
        "rules": (
          ("", {"clip": 3.0}),
          ("head/prototypes", {"freeze": 1.0}),
        ),
      },
      "lr": {"warmup": 10.0, "final": 1e-6 / 0.06},
    },
  )
