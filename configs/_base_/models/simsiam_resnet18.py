"""SimSiam for 32-px images: ResNet-18 with the CIFAR stem, two-layer head."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "simsiam",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (2048, 2048),
        "last_norm": "affine",
      },
      "predictor": {
        "dims": (512, 2048),
        "use_bias": True,
      },
    }
  }
