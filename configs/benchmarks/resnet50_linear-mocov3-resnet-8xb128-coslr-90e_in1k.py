"""MoCo v3's linear protocol, ResNet-50, ImageNet.

Chen, Xie and He, 2021, and `main_lincls.py`. MoCo v3 of 1000 epochs has 74.6 %
there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.1,90,per=epoch",
    "../_base_/benchmark_runtime.py",
    data={"batch_size": 1024},
  )
