"""MoCo v3's fine-tuning, ViT-B/16, ImageNet.

Chen, Xie and He, 2021, section 5.2: DeiT's recipe for 150 epochs (Touvron et
al., 2021, table 9), from the class token, without layer-wise decay. MoCo v3 of
300 epochs has 83.2 % there. DeiT also shows each image three times in a batch,
and jitters its colours; neither is done here.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./vit-base-p16_ft-mae-8xb128-bf16-coslr-100e_in1k.py",
    model={
      "backbone": {"features": "cls", "pool_norm": False},
      "classifier": {"std": 0.02},
    },
    schedule={
      "epochs": 150,
      "optimizer": {"lr": 5e-4, "lr_batch": 512, "layer_decay": 1.0},
      "lr": {"warmup": 5.0, "warmup_from": 1e-3, "final": 1e-2},
    },
  )
