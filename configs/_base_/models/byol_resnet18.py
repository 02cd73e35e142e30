"""BYOL for 32-px images: ResNet-18 with the CIFAR stem."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "byol",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (4096, 256),
        "use_bias": True,
      },
      "predictor": {
        "dims": (4096, 256),
        "use_bias": True,
      },
      "momentum": {"kind": "cosine", "start": 0.99, "final": 1.0},
    }
  }
