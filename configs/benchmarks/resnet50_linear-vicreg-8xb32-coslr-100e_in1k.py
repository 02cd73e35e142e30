"""VICReg's linear protocol, ResNet-50, ImageNet.

Bardes et al., 2022, and `evaluate.py`. VICReg of 1000 epochs has 73.2 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./resnet50_linear-swav-8xb32-coslr-100e_in1k.py",
    schedule={"optimizer": {"lr": 0.02}},
  )
