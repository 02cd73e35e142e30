"""LeJEPA for 32-px images: ResNet-18 with the CIFAR stem.

Embeddings of 16 dimensions, SIGReg's share of 0.02 and 256 directions are those
of the official minimal example for ten classes.
"""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "lejepa",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "projector": {
        "dims": (2048, 2048, 16),
        "use_bias": True,
      },
      "sigreg_weight": 0.02,
      "directions": 256,
    }
  }
