"""AdamW for a ResNet in a short run: a rate of 2e-3 for 64 images."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Section `schedule`."""
  return inherit(
    "./adamw_coslr-200e.py",
    schedule={
      "epochs": 24,
      "optimizer": {"lr": 8e-3},
      "lr": {"warmup": 1.0},
    },
  )
