"""MAE for 32-px images: ViT-S/4, a decoder of 8 blocks."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "mae",
      "backbone": {
        "name": "vit",
        "variant": "small",
        "depth": None,
        "heads": 12,
        "patch_size": 4,
        "image_size": 32,
      },
      "decoder": {
        "width": 512,
        "depth": 8,
        "heads": 16,
      },
      "mask_ratio": 0.75,
      "norm_pix": True,
    }
  }
