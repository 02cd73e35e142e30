"""MoCo v3, ResNet-50, ImageNet, batch 4096, 100 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's MoCo v3 ResNet recipes."""
  return inherit(
    "../_base_/models/mocov3_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/byol.py:smallest=0.2",
    "../_base_/schedules/larc_coslr-100e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 4096},
  )
