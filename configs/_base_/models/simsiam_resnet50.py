"""SimSiam for ImageNet: ResNet-50, synchronised BatchNorm."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "simsiam",
      "backbone": {
        "name": "resnet",
        "depth": 50,
      },
      "projector": {
        "dims": (2048, 2048, 2048),
        "last_norm": "plain",
      },
      "predictor": {
        "dims": (512, 2048),
        "use_bias": True,
      },
    }
  }
