"""The generated shapes with SimCLR's two views; no download."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  view = {
    "size": 32,
    "count": 2,
    "crop_scale": (0.5, 1.0),
    "interpolation": "bilinear",
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.4, 0.2),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur": 0.0,
    "solarize": 0.0,
  }
  return ConfigDict(
    {
      "data": {
        "source": "shapes",
        "batch_size": 256,
        "views": (view,),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
      }
    },
    sort_keys=False,
  )
