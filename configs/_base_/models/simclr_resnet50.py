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
          "width": 1.0,
          "stem": "imagenet",
          "zero_init_residual": True,
        },
        "projector": {
          "dims": (2048, 128),
          "use_bias": False,
          "norm": True,
          "last_norm": "affine",
        },
        "temperature": 0.1,
        "norm_groups": 1,  # Synchronised BatchNorm.
        "dtype": "float32",
      }
    },
    sort_keys=False,
  )
