"""A linear classifier of the frozen features of a ViT-B/16; ImageNet."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "linear",
      "backbone": {
        "name": "vit",
        "variant": "base",
        "patch_size": 16,
      },
      "classifier": {
        "classes": 1000,
      },
    }
  }
