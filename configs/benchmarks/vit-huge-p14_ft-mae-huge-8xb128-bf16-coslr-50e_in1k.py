"""MAE's fine-tuning, ViT-H/14, ImageNet.

As of ViT-L, with more drop path. MAE of 1600 epochs has 86.9 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./vit-large-p16_ft-mae-large-8xb128-bf16-coslr-50e_in1k.py",
    model={
      "backbone": {
        "variant": "huge",
        "patch_size": 14,
        "drop_path": 0.3,
      },
    },
  )
