"""MoCo v3, ViT-S/16, ImageNet, batch 4096, 300 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """This ViT-S has 12 heads, where DeiT's has 6."""
  return inherit(
    "./mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k.py",
    model={"backbone": {"variant": "small", "heads": 12}},
  )
