"""SimCLR's linear protocol, ResNet-50, ImageNet.

Chen et al., 2020, appendix B.6: Nesterov momentum, 1.6 for a batch of 4096, no
warm-up, no decay. SimCLR of 1000 epochs has 69.3 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.1,90,nesterov=True",
    "../_base_/benchmark_runtime.py",
    data={"batch_size": 4096},
  )
