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
          "width": None,
          "depth": None,
          "heads": None,
          "mlp_ratio": 4.0,
          "patch_size": 4,
          "image_size": 32,
          "style": "mae",
          "positions": "sincos",
          "class_token": True,
          "layer_scale": None,
          "frozen_patches": False,
          "features": "cls",
          "drop_path": 0.0,
          "remat": False,
          "attention": "xla",
        },
        "decoder": {
          "width": 192,
          "depth": 4,
          "heads": 3,
          "mlp_ratio": 4.0,
          "remat": False,
          "attention": "xla",
        },
        "mask_ratio": 0.75,
        "norm_pix": True,
        "dtype": "float32",
      }
    },
    sort_keys=False,
  )
