"""MoCo v3, ViT-Ti/4, CIFAR-10, 200 epochs (our figures).

No one has published any of a ViT: the official ones for ImageNet, with narrower
heads, less warm-up and the augmentation that solo-learn has for its ResNet-18.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 MoCo v3 recipes."""
  return inherit(
    "../_base_/models/mocov3_vit-tiny-p4.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/byol.py:32,blur=(0,0),interpolation=bicubic",
    "../_base_/schedules/adamw_coslr-300e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={
      "epochs": 200,
      "optimizer": {"lr": 5e-4},
      "lr": {"warmup": 20.0},
    },
    runtime={
      "evaluate": {
        "features": ("pooled", "cls+pooled"),
        "knn": {"k": (200, 20), "temperature": 0.1},
      },
    },
  )
