"""BYOL, ResNet-50, ImageNet, batch 4096, 200 epochs (MMSelfSup's figures).

The official code has no figures for 200 epochs. MMSelfSup's loss is smaller by
4, with the same gradient, and its momentum is that of one step later. Its LARS
has |g| + w |p| where `lars` has |g + w p|: alike, as w is 1e-6.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The linear rule makes the learning rate 0.3 x 4096 / 256 = 4.8."""
  return inherit(
    "../_base_/models/byol_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/byol.py:interpolation=bicubic",
    "../_base_/schedules/lars_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 4096},
  )
