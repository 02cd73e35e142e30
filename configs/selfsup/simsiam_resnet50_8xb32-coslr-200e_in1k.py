"""SimSiam, ResNet-50, ImageNet, batch 256, 200 epochs (MMSelfSup's figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The same for longer."""
  return inherit(
    "./simsiam_resnet50_8xb32-coslr-100e_in1k.py",
    schedule={"epochs": 200},
  )
