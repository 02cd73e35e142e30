"""MoCo v3 for ImageNet: ViT-B/16, patch projection frozen."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `model`."""
  return ConfigDict(
    {
      "model": {
        "method": "mocov3",
        "backbone": {
          "name": "vit",
          "variant": "base",
          "width": None,
          "depth": None,
          "heads": None,
          "mlp_ratio": 4.0,
          "patch_size": 16,
          "image_size": 224,
          "style": "mocov3",
          "positions": "sincos",
          "class_token": True,
          "layer_scale": None,
          "frozen_patches": True,
          "features": "cls",
          "drop_path": 0.0,
          "remat": False,
          "attention": "xla",
        },
        "projector": {
          "dims": (4096, 4096, 256),
          "use_bias": False,
          "norm": True,
          "last_norm": "plain",
        },
        "predictor": {
          "dims": (4096, 256),
          "use_bias": False,
          "norm": True,
          "last_norm": "plain",
        },
        "temperature": 0.2,
        "momentum": 0.99,
        "norm_groups": 1,
        "dtype": "float32",
      }
    },
    sort_keys=False,
  )
