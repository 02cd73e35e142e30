"""Relative location, ResNet-18, CIFAR-10, 70 epochs (our figures).

No one has published any: MMSelfSup's for ImageNet, with patches of 9 px.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 relative-location recipes."""
  return inherit(
    "../_base_/models/relative-loc_resnet18.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/relative-loc.py:9,resize=36,crop=33",
    "../_base_/schedules/sgd_steplr-70e.py",
    "../_base_/default_runtime.py",
    data={
      "batch_size": 512,
      "mean": (124 / 255, 117 / 255, 104 / 255),
      "std": (59 / 255, 58 / 255, 58 / 255),
    },
    runtime={
      "evaluate": {
        "features": ("stage3",),
        "knn": {"k": (200, 20), "temperature": 0.1},
      },
    },
  )
