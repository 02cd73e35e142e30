"""Barlow Twins for 32-px images: ResNet-18 with the CIFAR stem."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "barlow_twins",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (2048, 2048),
        "last_norm": "plain",
      },
      "redundancy_weight": 0.005,
    }
  }
