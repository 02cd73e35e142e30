"""MAE's linear protocol, ViT-B/16, ImageNet.

He et al., 2022, appendix A.1, and `main_linprobe.py`: BatchNorm without scale
and bias before the classifier, LARS, a batch of 16384 on 32 GPUs, each with
statistics of its own. MAE of 1600 epochs has 67.8 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_vit-base-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py:interpolation=bicubic",
    "../_base_/schedules/sgd_linear.py:0.1,90",
    "../_base_/benchmark_runtime.py",
    model={"classifier": {"norm": True}, "norm_groups": 32},
    data={"batch_size": 16384},
    schedule={
      "optimizer": {"name": "larc", "exclude_1d": True},
      "lr": {"warmup": 10.0},
    },
  )
