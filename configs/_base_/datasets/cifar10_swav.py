"""CIFAR-10 with two views, solo-learn's symmetric augmentation."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  view = {
    "size": 32,
    "count": 2,
    "crop_scale": (0.08, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
    "jitter": (0.8, 0.8, 0.8, 0.2),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": 0.5,
    "blur_sigma": (0.1, 2.0),
    "blur_kernel": 23,
    "solarize": 0.0,
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
