"""MoCo v3 for 32-px images: ViT-Ti/4; heads as wide for it as for ViT-B."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "mocov3",
      "backbone": {
        "name": "vit",
        "variant": "tiny",
        "depth": None,
        "patch_size": 4,
        "image_size": 32,
        "weight_init": "xavier_qkv",
        "position_order": "row",
        "frozen_patches": True,
      },
      "projector": {
        "dims": (1024, 1024, 256),
        "last_norm": "plain",
      },
      "predictor": {
        "dims": (1024, 256),
        "last_norm": "plain",
      },
      "temperature": 0.2,
      "momentum": {"kind": "cosine", "start": 0.99, "final": 1.0},
    }
  }
