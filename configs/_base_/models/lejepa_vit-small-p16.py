"""LeJEPA for ImageNet: ViT-S/16 as timm has it, with drop path."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "lejepa",
      "backbone": {
        "name": "vit",
        "variant": "small",
        "patch_size": 16,
        "weight_init": "normal",
        "positions": "learned",
        "drop_path": 0.1,
      },
      "projector": {
        "dims": (2048, 2048, 64),
        "use_bias": True,
      },
      "sigreg_weight": 0.05,
      "directions": 1024,
    }
  }
