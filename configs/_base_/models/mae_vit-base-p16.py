"""MAE for ImageNet: ViT-B/16, a decoder of 8 blocks."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `model`."""
  return ConfigDict(
    {
      "model": {
        "method": "mae",
        "backbone": {
          "name": "vit",
          "variant": "base",
          "width": None,
          "depth": None,
          "heads": None,
          "mlp_ratio": 4.0,
          "patch_size": 16,
          "image_size": 224,
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
          "width": 512,
          "depth": 8,
          "heads": 16,
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
