"""SwAV for 32-px images: ResNet-18 with the CIFAR stem."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "swav",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
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
      "queue_start": 50.0,
    }
  }
