"""VICReg for ImageNet: ResNet-50, synchronised BatchNorm."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "vicreg",
      "backbone": {
        "name": "resnet",
        "depth": 50,
      },
      "projector": {
        "dims": (8192, 8192, 8192),
      },
      "invariance": 25.0,
      "variance": 25.0,
      "covariance": 1.0,
    }
  }
