"""ImageNet with MoCo v2's two views."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  view = {
    "size": 224,
    "count": 2,
    "crop_scale": (0.2, 1.0),
    "interpolation": "bilinear",
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.4, 0.1),
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
        "source": "imagenet2012",
        "batch_size": 256,
        "views": (view,),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
      }
    },
    sort_keys=False,
  )
