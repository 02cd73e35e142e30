"""MoCo v2, ResNet-50, ImageNet, batch 256, 800 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The same for longer."""
  return inherit(
    "./mocov2_resnet50_8xb32-coslr-200e_in1k.py",
    schedule={"epochs": 800},
  )
