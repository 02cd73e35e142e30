"""CIFAR-10 with multi-crop: two views of 32 px and six of 18 (solo-learn)."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  first = {
    "size": 32,
    "count": 1,
    "crop_scale": (0.2, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
    "jitter": (0.6, 0.6, 0.6, 0.2),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": 0.0,
    "blur_sigma": (0.1, 2.0),
    "blur_kernel": 23,
    "solarize": 0.0,
  }
  second = first | {"solarize": 0.2}
  small = first | {
    "size": 18,
    "count": 6,
    "crop_scale": (0.08, 0.5),
    "jitter": (0.8, 0.8, 0.8, 0.2),
    "blur": 0.1,
    "solarize": 0.1,
  }
  return ConfigDict(
    {
      "data": {
        "source": "cifar10",
        "batch_size": 256,
        "views": (first, second, small),
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
      }
    },
    sort_keys=False,
  )
