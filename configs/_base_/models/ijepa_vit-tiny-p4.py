"""I-JEPA for 32-px images: ViT-Ti/4, a predictor half as wide and deep."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "ijepa",
      "backbone": {
        "name": "vit",
        "variant": "tiny",
        "depth": None,
        "patch_size": 4,
        "image_size": 32,
        # With N(0, 0.02^2), the 48 numbers of a patch would weigh a fifth of
        # its position. By torch's rule they weigh as much as in a ViT-B/16.
        "weight_init": "normal",
        "class_token": False,
        "features": "pooled",
      },
      "predictor": {
        "width": 96,
        "depth": 6,
        "heads": 3,
      },
      "momentum": {"kind": "linear", "start": 0.996, "final": 1.0},
      # Of 64 patches, where a target has 9 or 12.
      "context_least": 5,
      "context_limit": 0.5,
    }
  }
