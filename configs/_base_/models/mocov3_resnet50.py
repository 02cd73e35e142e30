"""MoCo v3 for ImageNet: ResNet-50."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "mocov3",
      "backbone": {
        "name": "resnet",
        "depth": 50,
      },
      "projector": {
        "dims": (4096, 256),
        "last_norm": "plain",
      },
      "predictor": {
        "dims": (4096, 256),
      },
      "temperature": 1.0,
      "momentum": {"kind": "cosine", "start": 0.99, "final": 1.0},
    }
  }
