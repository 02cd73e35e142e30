"""I-JEPA, ViT-L/16, ImageNet, batch 2048, 600 epochs (official figures).

The official code has no file for this network: the figures are those of its
ViT-H/14, and the schedules are stretched by a quarter, as in the paper.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The same for longer; no schedule comes to its end."""
  stretched = {"over": {"share": 1.25}}
  return inherit(
    "./ijepa_vit-huge-p14_16xb128-bf16-coslr-300e_in1k.py",
    model={
      "backbone": {"variant": "large", "patch_size": 16},
      "momentum": stretched,
    },
    schedule={
      "epochs": 600,
      "optimizer": {"weight_decay": stretched},
      "lr": stretched,
    },
  )
