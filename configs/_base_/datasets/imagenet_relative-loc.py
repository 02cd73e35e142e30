"""ImageNet with the nine patches of relative location."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  patches = {
    "kind": "patches",
    "size": 64,
    "resize": 292,
    "crop": 255,
    "grey": 0.66,
    "interpolation": "bilinear",
  }
  return ConfigDict(
    {
      "data": {
        "source": "imagenet2012",
        "batch_size": 512,
        "views": (patches,),
        "mean": (124 / 255, 117 / 255, 104 / 255),
        "std": (59 / 255, 58 / 255, 58 / 255),
      }
    },
    sort_keys=False,
  )
