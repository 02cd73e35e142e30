"""A linear classifier of the frozen features of a ResNet-50; ImageNet."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "linear",
      "backbone": {
        "name": "resnet",
        "depth": 50,
      },
      "classifier": {
        "classes": 1000,
      },
    }
  }
