"""MoCo v3's linear protocol, ViT-B/16, ImageNet.

Chen, Xie and He, 2021, and `main_lincls.py`. MoCo v3 of 300 epochs has 76.7 %
there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_vit-base-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:3.0,90,per=epoch",
    "../_base_/benchmark_runtime.py",
    data={"batch_size": 1024},
  )
