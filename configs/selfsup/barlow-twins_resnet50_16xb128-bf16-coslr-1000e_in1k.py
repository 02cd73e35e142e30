"""Barlow Twins, ResNet-50, ImageNet, 1000 epochs (official figures).

They reach 73.5 %, linear. The rate of biases and scales is 0.0048 = 0.024 x 0.2
for a batch of 256. In the official code, their gradient is 1 / 16 of ours (on
16 devices): see `methods.barlow_twins`.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet Barlow Twins recipes."""
  return inherit(
    "../_base_/models/barlow-twins_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/byol.py:interpolation=bicubic",
    "../_base_/schedules/larc_coslr-100e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 2048},
    schedule={
      "epochs": 1000,
      "optimizer": {
        "lr": 0.2,
        "rules": (("(bias|scale)$", {"lr": 0.024}),),
      },
      "lr": {"final": 0.001},
    },
  )
