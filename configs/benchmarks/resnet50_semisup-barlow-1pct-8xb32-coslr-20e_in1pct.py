"""Barlow Twins' protocol for 1 % of the labels, ResNet-50, ImageNet.

Zbontar et al., 2021, and the official README: 0.005 for the network, 0.5 for
the classifier. Barlow Twins has 55.0 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./resnet50_semisup-vicreg-1pct-8xb32-coslr-20e_in1pct.py",
    schedule={
      "optimizer": {
        "lr": 0.005,
        "rules": (("classifier/", {"lr": 100}),),
      },
    },
  )
