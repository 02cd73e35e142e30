"""DINO for ImageNet: ViT-S/16."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "dino",
      "backbone": {
        "name": "vit",
        "variant": "small",
        "depth": None,
        "patch_size": 16,
        "weight_init": "normal",
        "positions": "learned",
        "drop_path": 0.1,
      },
      "head": {
        "dims": (2048, 2048, 256),
        "prototypes": 65536,
        "trained_scale": False,
      },
      "temperature": 0.1,
      "teacher_temperature": 0.04,
      "center_momentum": 0.9,
      "momentum": {"kind": "cosine", "start": 0.996, "final": 1.0},
    }
  }
