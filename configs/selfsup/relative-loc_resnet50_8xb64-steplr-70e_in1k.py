"""Relative location, ResNet-50, ImageNet, batch 512, 70 epochs (MMSelfSup).

Features of stage 3 are some ten points better than the final ones here. Each of
the nine patches is encoded once, and images are resized with antialiasing;
MMSelfSup encodes the centre eight times, and resizes by OpenCV without it.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet relative-location recipes."""
  return inherit(
    "../_base_/models/relative-loc_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/relative-loc.py",
    "../_base_/schedules/sgd_steplr-70e.py",
    "../_base_/default_runtime.py",
    data={
      "batch_size": 512,
      "mean": (124 / 255, 117 / 255, 104 / 255),
      "std": (59 / 255, 58 / 255, 58 / 255),
    },
    runtime={"evaluate": {"features": ("stage3",)}},
  )
