"""Relative location: ResNet-50, BatchNorm over 8 groups."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "relative_loc",
      "backbone": {
        "name": "resnet",
        "depth": 50,
        "zero_init_residual": False,
      },
      "head": {"hidden": 4096, "classes": 8},
      "dropout": 0.5,
      "norm_groups": 8,
    }
  }
