"""MAE, ViT-B/16, ImageNet, batch 4096, 400 epochs (official figures).

For as many epochs as MMSelfSup; the official code has 800 or more.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The same for longer."""
  return inherit(
    "./mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k.py",
    schedule={"epochs": 400},
  )
