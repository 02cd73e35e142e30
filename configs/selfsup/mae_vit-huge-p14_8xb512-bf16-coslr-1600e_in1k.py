"""MAE, ViT-H/14, ImageNet, batch 4096, 1600 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """256 patches of 14 x 14 pixels."""
  return inherit(
    "./mae_vit-large-p16_8xb512-bf16-coslr-400e_in1k.py",
    model={"backbone": {"variant": "huge", "patch_size": 14}},
    schedule={"epochs": 1600},
  )
