"""VICReg for 32-px images: ResNet-18 with the CIFAR stem."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "vicreg",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (2048, 2048, 2048),
        "use_bias": True,
      },
      "invariance": 25.0,
      "variance": 25.0,
      "covariance": 1.0,
    }
  }
