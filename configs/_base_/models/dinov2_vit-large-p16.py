"""DINOv2 for ImageNet-1k: ViT-L/16, one head for class tokens and patches."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "dinov2",
      "backbone": {
        "name": "vit",
        "variant": "large",
        "depth": None,
        "patch_size": 16,
        "weight_init": "normal",
        "positions": "learned",
        "mask_token": True,
        "layer_scale": 1e-5,
        "drop_path": 0.3,
        "drop_path_schedule": "uniform",
      },
      "head": {
        "dims": (2048, 2048, 256),
        "prototypes": 65536,
        "trained_scale": True,
      },
      "temperature": 0.1,
      "teacher_temperature": {
        "kind": "constant",
        "start": 0.07,
        "warmup": {"steps": 37500},
        "warmup_from": 0.04,
      },
      "centering": "center",
      "center_momentum": 0.9,
      "momentum": {"kind": "cosine", "start": 0.992, "final": 1.0},
      "mask_ratio": (0.1, 0.5),
      "koleo_weight": 0.1,
      "koleo_groups": 32,
    }
  }
