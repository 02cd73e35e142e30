"""CIFAR-10 with SimCLR's two views: weaker colour, and no blur at 32 px.

SimCLR, appendix B.9; the figures are those of lightly's CIFAR-10 benchmark.
"""

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
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
      }
    },
    sort_keys=False,
  )
