"""Barlow Twins' protocol for 1 % of the labels, ResNet-50, ImageNet.

Zbontar et al., 2021, and the official README: 0.005 for the network, 0.5 for
the classifier. Barlow Twins has 55.0 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/finetune_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.005,20",
    "../_base_/benchmark_runtime.py",
    data={"source": "imagenet2012_1percent", "batch_size": 256},
    schedule={
      "optimizer": {"rules": (("classifier/", {"lr": 100}),)},
      "lr": {"kind": "cosine", "per": "epoch"},
    },
  )
