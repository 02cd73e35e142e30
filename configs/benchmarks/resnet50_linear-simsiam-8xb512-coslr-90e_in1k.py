"""SimSiam's linear protocol, ResNet-50, ImageNet.

Chen and He, 2021, appendix A, and the official `main_lincls.py`: apex's LARC.
SimSiam of 100 epochs has 68.1 % there.
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
    data={"batch_size": 4096},
    schedule={"optimizer": {"name": "larc"}},
  )
