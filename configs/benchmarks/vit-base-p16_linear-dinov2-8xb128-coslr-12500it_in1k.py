"""DINOv2's linear protocol: 52 classifiers at once, ImageNet.

Oquab et al., 2024, appendix B.3, and `eval/linear.py`: class tokens of the last
1 or 4 blocks, without or with the mean of the last block's patches, times 13
learning rates. The best on the validation set is reported, as there. The
official DINOv2 ViT-B/14, which has seen more than ImageNet, has 84.5 %.
"""

from ml_collections import ConfigDict

from sslx.config import inherit

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3,
         1e-2, 2e-2, 5e-2, 0.1)  # fmt: skip


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`. Classifier i has rate i."""
  return inherit(
    "../_base_/models/linear_vit-base-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/classify.py:interpolation=bicubic",
    "../_base_/schedules/sgd_linear.py:0.1",
    "../_base_/benchmark_runtime.py",
    model={
      "features": ("cls", "cls+pooled", "cls4", "cls4+pooled"),
      "classifier": {"copies": len(RATES)},
    },
    data={"batch_size": 1024},
    schedule={
      "epochs": None,
      "steps": 12500,
      "optimizer": {
        "rules": tuple(
          (f"_{i}/", {"lr": rate / RATES[-1]}) for i, rate in enumerate(RATES)
        )
      },
    },
    runtime={"evaluate": {"every_epochs": 1.0}},
  )
