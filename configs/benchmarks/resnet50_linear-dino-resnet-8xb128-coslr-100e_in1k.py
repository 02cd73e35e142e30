"""DINO's linear protocol, ResNet-50, ImageNet.

As of ViT-S, with the pooled features. DINO has 75.3 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.001,100,per=epoch",
    "../_base_/benchmark_runtime.py",
    data={"batch_size": 1024, "centre": {"interpolation": "bicubic"}},
  )
