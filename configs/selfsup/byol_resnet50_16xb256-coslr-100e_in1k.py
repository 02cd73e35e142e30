"""BYOL, ResNet-50, ImageNet, batch 4096, 100 epochs (official figures).

The paper's ResNets start with a scale of 1 in the last BatchNorm of each block,
the published code with 0; here it is 1. Its LARS has |g + w p| where `larc` has
|g| + w |p|: alike, as w is 1e-6.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's official BYOL recipes."""
  return inherit(
    "../_base_/models/byol_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/byol.py:interpolation=bicubic",
    "../_base_/schedules/larc_coslr-100e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 4096},
    schedule={"optimizer": {"lr": 0.45}},
  )
