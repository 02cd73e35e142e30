"""SimCLR for ImageNet: ResNet-50, as MMSelfSup has it."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `model`."""
  return ConfigDict(
    {
      "model": {
        "method": "simclr",
        "backbone": {
          "name": "resnet",
          "depth": 50,
        },
        "projector": {
          "dims": (2048, 128),
          "last_norm": "affine",
        },
        "temperature": 0.1,
        "norm_groups": 1,  # Synchronised BatchNorm.
      }
    },
    sort_keys=False,
  )
