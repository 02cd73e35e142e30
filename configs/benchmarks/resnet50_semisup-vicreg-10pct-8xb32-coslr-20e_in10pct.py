"""VICReg's protocol for 10 % of the labels, ResNet-50, ImageNet.

As of 1 %, with rates of 0.01 and 0.1. VICReg has 69.5 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./resnet50_semisup-vicreg-1pct-8xb32-coslr-20e_in1pct.py",
    data={"source": "imagenet2012_10percent"},
    schedule={
      "optimizer": {
        "lr": 0.01,
        "rules": (("classifier/", {"lr": 10}),),
      },
    },
  )
