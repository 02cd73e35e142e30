"""DINOv2 for 32-px images: ViT-Ti/4 with registers; two narrow heads."""


def get_config() -> dict:
  """Section `model`."""
  head = {
    "dims": (512, 512, 128),
    "prototypes": 2048,
    "trained_scale": False,
  }
  return {
    "model": {
      "method": "dinov2",
      "backbone": {
        "name": "vit",
        "variant": "tiny",
        "depth": None,
        "patch_size": 4,
        "image_size": 32,
        "weight_init": "normal",
        "positions": "learned",
        "mask_token": True,
        "registers": 4,
        "layer_scale": 1e-2,
        "drop_path": 0.0,
      },
      "head": head,
      "patch_head": head,
      "temperature": 0.1,
      "teacher_temperature": 0.04,
      "centering": "sinkhorn",
      "sinkhorn_iterations": 3,
      "momentum": {"kind": "cosine", "start": 0.99, "final": 1.0},
      "mask_ratio": (0.1, 0.5),
      "koleo_weight": 0.1,
      "koleo_groups": 1,
    }
  }
