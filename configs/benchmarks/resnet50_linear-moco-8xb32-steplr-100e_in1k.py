"""MoCo's linear protocol, ResNet-50, ImageNet.

He et al., Momentum Contrast, 2020, section 4.1, and `main_lincls.py`. MoCo v2
of 200 epochs has 67.5 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:30.0,100",
    "../_base_/benchmark_runtime.py",
    data={"batch_size": 256},
    schedule={
      "lr": {"kind": "step", "milestones": (60.0, 80.0), "per": "epoch"},
    },
  )
