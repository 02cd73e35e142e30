"""Barlow Twins for ImageNet: ResNet-50, synchronised BatchNorm."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "barlow_twins",
      "backbone": {
        "name": "resnet",
        "depth": 50,
      },
      "projector": {
        "dims": (8192, 8192, 8192),
        "last_norm": "plain",
      },
      "redundancy_weight": 0.0051,
    }
  }
