"""MAE, ViT-L/16, ImageNet, batch 4096, 400 epochs (official figures).

For as many epochs as MMSelfSup; the official code has 800 or more.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Parameters sharded over the devices, activations computed anew."""
  return inherit(
    "./mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k.py",
    model={"backbone": {"variant": "large", "remat": True}},
    schedule={"epochs": 400},
    runtime={"parallel": {"rules": "fsdp"}},
  )
