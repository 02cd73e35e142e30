"""MoCo v3 for 32-px images: ViT-Ti/4; heads as wide for it as for ViT-B."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Section `model`."""
  return ConfigDict(
    {
      "model": {
        "method": "mocov3",
        "backbone": {
          "name": "vit",
          "variant": "tiny",
          "width": None,
          "depth": None,
          "heads": None,
          "mlp_ratio": 4.0,
          "patch_size": 4,
          "image_size": 32,
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
          "dims": (1024, 1024, 256),
          "use_bias": False,
          "norm": True,
          "last_norm": "plain",
        },
        "predictor": {
          "dims": (1024, 256),
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
