"""BYOL, ResNet-50, ImageNet, batch 4096, 1000 epochs (official figures).

The paper's: 74.3 % with a linear classifier.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The same for longer, with a slower target and more weight decay."""
  return inherit(
    "./byol_resnet50_16xb256-coslr-100e_in1k.py",
    model={"momentum": {"start": 0.996}},
    schedule={
      "epochs": 1000,
      "optimizer": {"lr": 0.2, "weight_decay": 1.5e-6},
    },
  )
