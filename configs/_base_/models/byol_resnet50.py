"""BYOL for ImageNet: ResNet-50, synchronised BatchNorm."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "byol",
      "backbone": {
        "name": "resnet",
        "depth": 50,
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (4096, 256),
      },
      "predictor": {
        "dims": (4096, 256),
      },
      "momentum": {"kind": "cosine", "start": 0.99, "final": 1.0},
    }
  }
