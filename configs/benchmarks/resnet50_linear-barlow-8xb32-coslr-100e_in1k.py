"""Barlow Twins' linear protocol, ResNet-50, ImageNet.

Zbontar et al., 2021, and `evaluate.py`. Its torch classifier starts from
torch's uniform weights; here as in SwAV. Barlow Twins of 1000 epochs has 73.2 %
there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./resnet50_linear-swav-8xb32-coslr-100e_in1k.py",
  )
