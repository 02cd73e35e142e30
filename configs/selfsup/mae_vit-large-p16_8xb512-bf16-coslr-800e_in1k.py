"""MAE, ViT-L/16, ImageNet, batch 4096, 800 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Parameters sharded over the devices, activations computed anew."""
  return inherit(
    "./mae_vit-base-p16_8xb512-bf16-coslr-800e_in1k.py",
    model={"backbone": {"variant": "large", "remat": True}},
    runtime={"parallel": {"rules": "fsdp"}},
  )
