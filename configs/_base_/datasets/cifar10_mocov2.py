"""CIFAR-10 with the two views of MoCo's CIFAR notebook: no blur."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  view = {
    "size": 32,
    "count": 2,
    "crop_scale": (0.08, 1.0),
    "interpolation": "bilinear",
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": 0.0,
    "solarize": 0.0,
  }
  return ConfigDict(
    {
      "data": {
        "source": "cifar10",
        "batch_size": 512,
        "views": (view,),
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2023, 0.1994, 0.2010),
      }
    },
    sort_keys=False,
  )
