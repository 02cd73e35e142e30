"""SwAV, ResNet-50, ImageNet, batch 256, 200 epochs (official figures).

In float32, as MMSelfSup has it; the official code uses mixed float16.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet SwAV recipes."""
  return inherit(
    "../_base_/models/swav_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/swav-mcrop-2-6.py",
    "../_base_/schedules/larc_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256, "std": (0.228, 0.224, 0.225)},
  )
