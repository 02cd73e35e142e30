"""iBOT for 32-px images: ViT-Ti/4; a narrow head with few prototypes."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "ibot",
      "backbone": {
        "name": "vit",
        "variant": "tiny",
        "depth": None,
        "patch_size": 4,
        "image_size": 32,
        "weight_init": "normal",
        "positions": "learned",
        "mask_token": True,
        "drop_path": 0.0,
      },
      "head": {
        "dims": (512, 512, 128),
        "prototypes": 2048,
        "trained_scale": False,
      },
      "temperature": 0.1,
      "teacher_temperature": 0.04,
      "center_momentum": 0.9,
      "momentum": {"kind": "cosine", "start": 0.99, "final": 1.0},
      "mask_probability": 0.5,
      "mask_ratio": (0.1, 0.5),
    }
  }
