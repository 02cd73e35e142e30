"""CIFAR-10 with nine patches of 9 px; no paper has such a recipe."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `data`."""
  patches = {
    "kind": "patches",
    "size": 9,
    "resize": 36,
    "crop": 33,
    "grey": 0.66,
    "interpolation": "bilinear",
  }
  return ConfigDict(
    {
      "data": {
        "source": "cifar10",
        "batch_size": 512,
        "views": (patches,),
        "mean": (124 / 255, 117 / 255, 104 / 255),
        "std": (59 / 255, 58 / 255, 58 / 255),
      }
    },
    sort_keys=False,
  )
