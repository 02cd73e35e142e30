"""MoCo v3 on the generated shapes (our figures): minutes on a laptop's CPU."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A narrow ViT of 4 blocks and a short schedule."""
  return inherit(
    "../_base_/models/mocov3_vit-tiny-p4.py",
    "../_base_/datasets/shapes.py",
    "../_base_/datasets/views/simclr.py:32,smallest=0.5,jitter=(0.4,0.4,0.4,0.2),blur=0",
    "../_base_/schedules/adamw_coslr-200e.py",
    "../_base_/shapes_runtime.py",
    model={
      "backbone": {"width": 96, "depth": 4, "heads": 3, "patch_size": 8},
      "projector": {"dims": (256, 256, 64)},
      "predictor": {"dims": (256, 64)},
    },
    schedule={"epochs": 24, "lr": {"warmup": 2.0}},
    runtime={"evaluate": {"features": ("pooled", "cls+pooled")}},
  )
