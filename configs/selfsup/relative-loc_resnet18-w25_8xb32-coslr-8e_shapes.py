"""Relative location on the generated shapes (our figures): minutes on a CPU."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A narrow ResNet-18 and a short schedule."""
  return inherit(
    "../_base_/models/relative-loc_resnet18.py",
    "../_base_/datasets/shapes.py",
    "../_base_/datasets/views/relative-loc.py:9,resize=36,crop=33",
    "../_base_/schedules/adamw_coslr-200e.py",
    "../_base_/shapes_runtime.py",
    model={"backbone": {"width": 0.25}, "head": {"hidden": 256}},
    data={
      "mean": (124 / 255, 117 / 255, 104 / 255),
      "std": (59 / 255, 58 / 255, 58 / 255),
    },
    # A step takes nine patches of each image, so few epochs. They raise kNN
    # of the third stage from 35.9 to 64.8 %, and of the last one from 27.2 to
    # 39.2 %; 24 epochs raise the latter to 54.3 %.
    schedule={
      "epochs": 8,
      "optimizer": {"lr": 3e-3},
      "lr": {"warmup": 1.0},
    },
    runtime={"evaluate": {"features": ("stage3",)}},
  )
