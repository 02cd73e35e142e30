"""SimCLR for ImageNet: ResNet-50, as MMSelfSup has it."""


def get_config() -> dict:
  """Section `model`."""
  return {
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
  }
