"""SimCLR, ResNet-50, ImageNet, batch 256, 200 epochs (MMSelfSup's figures).

Its LARS has |g| + w |p| where `lars` has |g + w p|: alike, as w is 1e-6.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet SimCLR recipes."""
  return inherit(
    "../_base_/models/simclr_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/simclr.py",
    "../_base_/schedules/lars_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
  )
