"""MAE, ViT-L/16, ImageNet, batch 4096, 400 epochs (MMSelfSup's figures).

The official code decays the class and mask tokens, and has 800 epochs or more.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """For less long; neither token is decayed."""
  return inherit(
    "./mae_vit-large-p16_8xb512-bf16-coslr-800e_in1k.py",
    schedule={
      "epochs": 400,
      "optimizer": {"exclude": ("bias$", "cls_token", "mask_token")},
      "lr": {"warmup_from": 1e-4},
    },
  )
