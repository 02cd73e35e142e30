"""VICReg, ResNet-50, ImageNet, batch 512, 100 epochs (official figures).

The run on one node of the README; it reports no accuracy.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet VICReg recipes."""
  return inherit(
    "../_base_/models/vicreg_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/byol.py:interpolation=bicubic",
    "../_base_/schedules/larc_coslr-100e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 512},
    schedule={
      "optimizer": {"lr": 0.3},
      "lr": {"final": 0.001},
    },
  )
