"""MoCo, ResNet-18, CIFAR-10, 200 epochs: the figures of the official notebook.

It reports a kNN accuracy (k=200, T=0.1) of 82.6 % for them.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 MoCo v2 recipes."""
  return inherit(
    "../_base_/models/mocov2_resnet18.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/simclr.py:32,jitter=(0.4,0.4,0.4,0.1),blur=0",
    "../_base_/schedules/sgd_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 512, "std": (0.2023, 0.1994, 0.2010)},
    schedule={
      "optimizer": {"lr": 0.06, "lr_batch": 512},
      "lr": {"per": "epoch"},
    },
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
