"""MAE, ViT-B/16, ImageNet, batch 4096, 300 epochs (MMSelfSup's figures).

The official code decays the class and mask tokens, and has 800 epochs or more.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """For less long; neither token is decayed."""
  return inherit(
    "./mae_vit-base-p16_8xb512-bf16-coslr-800e_in1k.py",
    schedule={
      "epochs": 300,
      "optimizer": {"exclude": ("bias$", "cls_token", "mask_token")},
      "lr": {"warmup_from": 1e-4},
    },
  )
