"""DINO for ImageNet: ResNet-50, synchronised BatchNorm."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "dino",
      "backbone": {
        "name": "resnet",
        "depth": 50,
        "zero_init_residual": False,
      },
      "head": {
        "dims": (2048, 2048, 256),
        "prototypes": 65536,
        "trained_scale": False,
      },
      "temperature": 0.1,
      "teacher_temperature": 0.04,
      "center_momentum": 0.9,
      "momentum": {"kind": "cosine", "start": 0.996, "final": 1.0},
    }
  }
