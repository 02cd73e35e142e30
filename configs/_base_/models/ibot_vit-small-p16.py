"""iBOT for ImageNet: ViT-S/16, one head of 8192 prototypes."""


def get_config() -> dict:
  """Section `model`."""
  return {
    "model": {
      "method": "ibot",
      "backbone": {
        "name": "vit",
        "variant": "small",
        "depth": None,
        "patch_size": 16,
        "weight_init": "normal",
        "positions": "learned",
        "mask_token": True,
        "drop_path": 0.1,
      },
      "head": {
        "dims": (2048, 2048, 256),
        "prototypes": 8192,
        "trained_scale": True,
      },
      "temperature": 0.1,
      # By epoch; the last of 30 epochs of warm-up has 0.07.
      "teacher_temperature": {
        "kind": "linear",
        "start": 0.04,
        "final": 0.07,
        "over": 29.0,
        "per": "epoch",
      },
      "center_momentum": 0.9,
      "momentum": {"kind": "cosine", "start": 0.996, "final": 1.0},
      "mask_probability": 0.5,
      "mask_ratio": (0.1, 0.5),
    }
  }
