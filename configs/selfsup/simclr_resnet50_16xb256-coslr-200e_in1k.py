"""SimCLR, ResNet-50, ImageNet, batch 4096, 200 epochs (MMSelfSup's figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The linear rule makes the learning rate 0.3 x 4096 / 256 = 4.8."""
  return inherit(
    "./simclr_resnet50_8xb32-coslr-200e_in1k.py",
    data={"batch_size": 4096},
  )
