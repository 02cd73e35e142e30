"""BYOL, ResNet-50, ImageNet, batch 4096, 300 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The same for longer, at a smaller learning rate."""
  return inherit(
    "./byol_resnet50_16xb256-coslr-100e_in1k.py",
    schedule={"epochs": 300, "optimizer": {"lr": 0.3}},
  )
