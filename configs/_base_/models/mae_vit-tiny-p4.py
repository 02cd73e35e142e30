"""MAE for 32-px images: ViT-Ti/4, a decoder of 4 blocks."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `model`."""
  return ConfigDict(
    {
      "model": {
        "method": "mae",
        "backbone": {
          "name": "vit",
          "variant": "tiny",
          "depth": None,
          "patch_size": 4,
          "image_size": 32,
        },
        "decoder": {
          "width": 192,
          "depth": 4,
          "heads": 3,
        },
        "mask_ratio": 0.75,
        "norm_pix": True,
      }
    },
    sort_keys=False,
  )
