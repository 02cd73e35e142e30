"""VICReg's protocol for 1 % of the labels, ResNet-50, ImageNet.

Bardes et al., 2022, and the official README: 0.03 for the network, 0.08 for the
classifier. VICReg has 54.8 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./resnet50_semisup-swav-1pct-8xb32-steplr-20e_in1pct.py",
    schedule={
      "optimizer": {
        "lr": 0.03,
        "rules": (("classifier/", {"lr": 2.66667}),),
      },
      "lr": {"_delete_": True, "kind": "cosine", "per": "epoch"},
    },
  )
