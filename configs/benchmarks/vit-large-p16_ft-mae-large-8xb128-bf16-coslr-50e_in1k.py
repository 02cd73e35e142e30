"""MAE's fine-tuning, ViT-L/16, ImageNet.

As of ViT-B, at twice the rate for half the epochs, with more drop path. MAE of
1600 epochs has 85.9 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./vit-base-p16_ft-mae-8xb128-bf16-coslr-100e_in1k.py",
    model={
      "backbone": {
        "variant": "large",
        "patch_size": 16,
        "drop_path": 0.2,
      },
    },
    schedule={
      "epochs": 50,
      "optimizer": {"lr": 1e-3, "layer_decay": 0.75},
      "lr": {"final": 1e-6 / 4e-3},
    },
  )
