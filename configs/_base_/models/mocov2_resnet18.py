"""MoCo for CIFAR-10, with the figures of the official notebook."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `model`."""
  return ConfigDict(
    {
      "model": {
        "method": "mocov2",
        "backbone": {
          "name": "resnet",
          "depth": 18,
          "stem": "cifar",
          "zero_init_residual": False,
        },
        "projector": {
          "dims": (128,),
          "use_bias": True,
          "norm": False,
        },
        "temperature": 0.1,
        "momentum": 0.99,
        "queue_size": 4096,
        "norm_groups": 8,
      }
    },
    sort_keys=False,
  )
