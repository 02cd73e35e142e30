"""MAE, ViT-L/16, ImageNet, batch 4096, 1600 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The same for longer."""
  return inherit(
    "./mae_vit-large-p16_8xb512-bf16-coslr-400e_in1k.py",
    schedule={"epochs": 1600},
  )
