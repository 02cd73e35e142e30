"""MoCo v2, ResNet-50, ImageNet, batch 256, 200 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet MoCo v2 recipes."""
  return inherit(
    "../_base_/models/mocov2_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/simclr.py:smallest=0.2,jitter=(0.4,0.4,0.4,0.1)",
    "../_base_/schedules/sgd_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={
      "optimizer": {"lr": 0.03, "lr_batch": 256, "weight_decay": 1e-4},
      "lr": {"per": "epoch"},
    },
  )
