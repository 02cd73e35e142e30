"""A ResNet-50 with a linear classifier, both trained; ImageNet."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "finetune",
      "backbone": {
        "name": "resnet",
        "depth": 50,
      },
      "classifier": {
        "classes": 1000,
      },
    }
  }
