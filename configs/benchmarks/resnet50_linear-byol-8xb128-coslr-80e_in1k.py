"""BYOL's linear protocol, ResNet-50, ImageNet.

Grill et al., 2020, appendix C.1, at the rate of the official code. BYOL of 1000
epochs has 74.3 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.2,80,nesterov=True",
    "../_base_/benchmark_runtime.py",
    data={"batch_size": 1024},
  )
