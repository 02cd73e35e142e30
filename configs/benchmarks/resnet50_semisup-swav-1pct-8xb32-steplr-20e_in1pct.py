"""SwAV's protocol for 1 % of the labels, ResNet-50, ImageNet.

Caron et al., 2020, and `eval_semisup.py`: 0.02 for the network, 5 for the
classifier. `python -m sslx.prepare imagenet2012 --only=1percent.txt` makes the
set, of the list that SimCLR's authors published. SwAV has 53.9 % there.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/finetune_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py",
    "../_base_/schedules/sgd_linear.py:0.02,20",
    "../_base_/benchmark_runtime.py",
    data={"source": "imagenet2012_1percent", "batch_size": 256},
    schedule={
      "optimizer": {"rules": (("classifier/", {"lr": 250}),)},
      "lr": {"kind": "step", "milestones": (12.0, 16.0), "gamma": 0.2},
    },
  )
