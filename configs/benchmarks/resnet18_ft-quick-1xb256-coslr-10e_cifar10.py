"""Fine-tuning for small machines and small images; ours, of no paper."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "../_base_/models/finetune_resnet50.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/classify.py:32",
    "../_base_/schedules/adamw_quick.py:1e-3,10",
    "../_base_/benchmark_runtime.py",
    model={
      "backbone": {"depth": 18, "stem": "cifar"},
      "classifier": {"classes": 10},
      "smoothing": 0.1,
    },
    data={"batch_size": 256},
    # An epoch is short.
    runtime={"checkpoint": {"every_epochs": 10.0}},
  )
