"""MAE for ImageNet: ViT-B/16, a decoder of 8 blocks."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "mae",
      "backbone": {
        "name": "vit",
        "variant": "base",
        "depth": None,
        "patch_size": 16,
      },
      "decoder": {
        "depth": 8,
      },
      "mask_ratio": 0.75,
      "norm_pix": True,
    }
  }
