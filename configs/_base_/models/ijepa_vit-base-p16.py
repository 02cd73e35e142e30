"""I-JEPA for ImageNet: ViT-B/16, a predictor of 6 blocks."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "ijepa",
      "backbone": {
        "name": "vit",
        "variant": "base",
        "depth": None,
        "patch_size": 16,
        "weight_init": "normal_all",
        "class_token": False,
        "features": "pooled",
      },
      "predictor": {
        "width": 384,
        "depth": 6,
        "heads": 12,
      },
      "momentum": {"kind": "linear", "start": 0.996, "final": 1.0},
      # One context in a hundred is larger.
      "context_limit": 0.6,
    }
  }
