"""SimCLR for 32-px images: ResNet-18 with the CIFAR stem."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "simclr",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (512, 128),
        "last_norm": "affine",
      },
      "temperature": 0.5,
    }
  }
