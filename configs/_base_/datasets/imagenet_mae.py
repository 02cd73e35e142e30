"""ImageNet with MAE's one view: a crop and a flip, no colour."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  view = {
    "size": 224,
    "count": 1,
    "crop_scale": (0.2, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
  }
  return ConfigDict(
    {
      "data": {
        "source": "imagenet2012",
        "batch_size": 4096,
        "views": (view,),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "centre": {"interpolation": "bicubic"},
      }
    },
    sort_keys=False,
  )
