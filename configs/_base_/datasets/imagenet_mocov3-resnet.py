"""ImageNet with the two views of MoCo v3's ResNet: crops of 20 % or more."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  first = {
    "size": 224,
    "crop_scale": (0.2, 1.0),
    "interpolation": "bilinear",
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": 1.0,
    "blur_sigma": (0.1, 2.0),
    "blur_kernel": 23,
    "solarize": 0.0,
  }
  second = first | {"blur": 0.1, "solarize": 0.2}
  return ConfigDict(
    {
      "data": {
        "source": "imagenet2012",
        "batch_size": 4096,
        "views": (first, second),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
      }
    },
    sort_keys=False,
  )
