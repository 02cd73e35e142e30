"""DINO's linear protocol, ViT-S/16, ImageNet.

Caron et al., 2021, appendix F.2, and `eval_linear.py`: the class tokens of the
last 4 blocks. DINO of 800 epochs has 77.0 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/linear_vit-base-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.001,100,per=epoch",
    "../_base_/benchmark_runtime.py",
    model={"backbone": {"variant": "small"}, "features": ("cls4",)},
    data={"batch_size": 1024, "centre": {"interpolation": "bicubic"}},
  )
