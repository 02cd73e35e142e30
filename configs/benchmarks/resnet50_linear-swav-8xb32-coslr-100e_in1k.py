"""SwAV's linear protocol, ResNet-50, ImageNet.

Caron et al., 2020, and `eval_linear.py`. SwAV of 800 epochs has 75.3 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.3,100,1e-6,per=epoch",
    "../_base_/benchmark_runtime.py",
    data={"batch_size": 256},
  )
