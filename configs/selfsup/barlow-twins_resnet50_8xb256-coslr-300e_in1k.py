"""Barlow Twins, ResNet-50, ImageNet, 300 epochs (MMSelfSup's figures).

They are the official ones but for the length, and reach 71.8 %, linear. Its
LARS has |g| + w |p| where `lars` has |g + w p|: alike, as w is 1e-6. It
normalises embeddings over the 256 images of a device, not over all 2048.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Of the official recipe, in float32, with a momentum that has the rate."""
  return inherit(
    "./barlow-twins_resnet50_16xb128-bf16-coslr-1000e_in1k.py",
    model={"dtype": "float32"},
    schedule={
      "epochs": 300,
      "optimizer": {"name": "lars"},
      "lr": {"warmup_from": 1.6e-4},
    },
  )
