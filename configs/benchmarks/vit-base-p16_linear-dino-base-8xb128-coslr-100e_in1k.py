"""DINO's linear protocol, ViT-B/16, ImageNet.

As of ViT-S, but the class token and the mean of the patches, of the last block.
DINO has 78.2 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./vit-small-p16_linear-dino-8xb128-coslr-100e_in1k.py",
    model={"backbone": {"variant": "base"}, "features": ("cls+pooled",)},
  )
