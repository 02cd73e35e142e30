"""I-JEPA on the generated shapes (our figures): minutes on a laptop's CPU."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A narrow ViT of 4 blocks, a small predictor and a short schedule."""
  return inherit(
    "../_base_/models/ijepa_vit-tiny-p4.py",
    "../_base_/datasets/shapes.py",
    "../_base_/datasets/views/mae.py:32,smallest=0.5,interpolation=bilinear,flip=0",
    "../_base_/schedules/adamw_ijepa.py",
    "../_base_/shapes_runtime.py",
    model={
      "backbone": {"width": 64, "depth": 4, "heads": 2},
      "predictor": {"width": 32, "depth": 2, "heads": 2},
      # A target that is near in a run of 384 steps.
      "momentum": {"start": 0.98},
    },
    schedule={
      "epochs": 24,
      "optimizer": {"lr": 2e-3},
      "lr": {"warmup": 2.0},
    },
  )
