"""I-JEPA, ViT-B/16, ImageNet, batch 2048, 600 epochs (official figures).

The official code has no file for this network; see the ViT-L/16.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A predictor of 6 blocks; all fits a device."""
  return inherit(
    "./ijepa_vit-large-p16_16xb128-bf16-coslr-600e_in1k.py",
    model={
      "backbone": {"variant": "base", "remat": False},
      "predictor": {"depth": 6, "heads": 12, "remat": False},
    },
    runtime={"parallel": {"rules": "replicated"}},
  )
