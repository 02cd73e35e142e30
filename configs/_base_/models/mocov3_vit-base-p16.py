"""MoCo v3 for ImageNet: ViT-B/16, patch projection frozen."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "mocov3",
      "backbone": {
        "name": "vit",
        "variant": "base",
        "depth": None,
        "patch_size": 16,
        "weight_init": "xavier_qkv",
        "position_order": "row",
        "frozen_patches": True,
      },
      "projector": {
        "dims": (4096, 4096, 256),
        "last_norm": "plain",
      },
      "predictor": {
        "dims": (4096, 256),
        "last_norm": "plain",
      },
      "temperature": 0.2,
      "momentum": {"kind": "cosine", "start": 0.99, "final": 1.0},
    }
  }
