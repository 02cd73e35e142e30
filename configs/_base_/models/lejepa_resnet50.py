"""LeJEPA for ImageNet: ResNet-50."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "lejepa",
      "backbone": {
        "name": "resnet",
        "depth": 50,
      },
      "projector": {
        "dims": (2048, 2048, 64),
        "use_bias": True,
      },
      "sigreg_weight": 0.05,
      "directions": 1024,
    }
  }
