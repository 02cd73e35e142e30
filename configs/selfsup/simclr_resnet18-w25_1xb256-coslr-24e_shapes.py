"""SimCLR on the generated shapes (our figures): two minutes on a laptop."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A narrow ResNet-18 and a short schedule; the embedded default."""
  return inherit(
    "../_base_/models/simclr_resnet18.py",
    "../_base_/datasets/shapes.py",
    "../_base_/datasets/views/simclr.py:32,smallest=0.5,jitter=(0.4,0.4,0.4,0.2),blur=0",
    "../_base_/schedules/adamw_coslr-200e.py",
    "../_base_/shapes_runtime.py",
    model={
      # Blocks that start as the identity would leave a network this small too
      # little to begin with: how far it gets would depend on the seed.
      "backbone": {"width": 0.25, "stem": "imagenet"},
      "projector": {"dims": (256, 64)},
      "temperature": 0.2,
    },
    schedule={
      "epochs": 24,
      "optimizer": {"lr": 3e-3},
      "lr": {"warmup": 1.0},
    },
  )
