"""Relative location for small patches: ResNet-18 with the CIFAR stem."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "relative_loc",
      "backbone": {
        "name": "resnet",
        "depth": 18,
        "stem": "cifar",
        "zero_init_residual": False,
      },
      "head": {"hidden": 1024, "classes": 8},
      "dropout": 0.5,
      "norm_groups": 8,
    }
  }
