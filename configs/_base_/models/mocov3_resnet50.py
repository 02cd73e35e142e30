"""MoCo v3 for ImageNet: ResNet-50."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `model`."""
  return ConfigDict(
    {
      "model": {
        "method": "mocov3",
        "backbone": {
          "name": "resnet",
          "depth": 50,
          "width": 1.0,
          "stem": "imagenet",
          "zero_init_residual": True,
        },
        "projector": {
          "dims": (4096, 256),
          "use_bias": False,
          "norm": True,
          "last_norm": "plain",
        },
        "predictor": {
          "dims": (4096, 256),
          "use_bias": False,
          "norm": True,
          "last_norm": "none",
        },
        "temperature": 1.0,
        "momentum": 0.99,
        "norm_groups": 1,
        "dtype": "float32",
      }
    },
    sort_keys=False,
  )
