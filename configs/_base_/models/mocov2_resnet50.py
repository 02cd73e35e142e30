"""MoCo v2 for ImageNet: ResNet-50, BatchNorm over 8 groups."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "mocov2",
      "backbone": {
        "name": "resnet",
        "depth": 50,
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (2048, 128),
        "use_bias": True,
        "norm": False,
      },
      "temperature": 0.2,
      "momentum": 0.999,
      "queue_size": 65536,
      "norm_groups": 8,
    }
  }
