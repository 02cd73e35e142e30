"""VICReg's protocol for 1 % of the labels, ResNet-50, ImageNet.

Bardes et al., 2022, and the official README: 0.03 for the network, 0.08 for the
classifier. VICReg has 54.8 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/finetune_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.03,20",
    "../_base_/benchmark_runtime.py",
    data={"source": "imagenet2012_1percent", "batch_size": 256},
    schedule={
      "optimizer": {"rules": (("classifier/", {"lr": 2.66667}),)},
      "lr": {"kind": "cosine", "per": "epoch"},
    },
  )
