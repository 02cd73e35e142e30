"""CIFAR-10 with one view, solo-learn's augmentation for reconstruction."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  view = {
    "size": 32,
    "count": 1,
    "crop_scale": (0.08, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
  }
  return ConfigDict(
    {
      "data": {
        "source": "cifar10",
        "batch_size": 256,
        "views": (view,),
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
      }
    },
    sort_keys=False,
  )
