"""The generated shapes with one view; no download."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  view = {
    "size": 32,
    "count": 1,
    "crop_scale": (0.5, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
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
