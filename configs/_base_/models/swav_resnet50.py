"""SwAV for ImageNet: ResNet-50, synchronised BatchNorm, 3,000 prototypes."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "swav",
      "backbone": {
        "name": "resnet",
        "depth": 50,
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (2048, 128),
        "use_bias": True,
      },
      "prototypes": 3000,
      "temperature": 0.1,
      "epsilon": 0.05,
      "sinkhorn_iterations": 3,
      "queue_size": 3840,
      "queue_start": 15.0,
    }
  }
