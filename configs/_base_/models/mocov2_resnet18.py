"""MoCo for CIFAR-10, with the figures of the official notebook."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "mocov2",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (128,),
        "use_bias": True,
        "norm": False,
      },
      "temperature": 0.1,
      "momentum": 0.99,
      "queue_size": 4096,
      "norm_groups": 8,
    }
  }
