"""ImageNet-1k, normalised as in torchvision."""


def get_config() -> dict:
  """Section `data`, but for views and batch."""
  return {
    "data": {
      "source": "imagenet2012",
      "mean": (0.485, 0.456, 0.406),
      "std": (0.229, 0.224, 0.225),
    }
  }
