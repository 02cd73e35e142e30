"""SwAV's protocol for 10 % of the labels, ResNet-50, ImageNet.

As of 1 %, with rates of 0.01 and 0.2. SwAV has 70.2 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/finetune_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.01,20",
    "../_base_/benchmark_runtime.py",
    data={"source": "imagenet2012_10percent", "batch_size": 256},
    schedule={
      "optimizer": {"rules": (("classifier/", {"lr": 20}),)},
      "lr": {"kind": "step", "milestones": (12.0, 16.0), "gamma": 0.2},
    },
  )
