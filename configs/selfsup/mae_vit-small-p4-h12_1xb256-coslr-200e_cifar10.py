"""MAE, ViT-S/4, CIFAR-10, 200 epochs (solo-learn's figures).

solo-learn trains for 1000 epochs (`--config.schedule.epochs=1000`), in mixed
float16. Its ViT-S has 12 heads, where DeiT's has 6, and it decays all
parameters, biases too.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 MAE recipes."""
  return inherit(
    "../_base_/models/mae_vit-small-p4.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/mae.py:32,smallest=0.08",
    "../_base_/schedules/adamw_coslr-300e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={
      "epochs": 200,
      "optimizer": {"lr": 2e-4, "b2": 0.95, "weight_decay": 0.05},
      "lr": {"warmup": 10.0, "warmup_from": 3e-5 / 2e-4},
    },
    runtime={
      "evaluate": {
        "features": ("pooled", "cls+pooled"),
        "knn": {"k": (200, 20), "temperature": 0.1},
      },
    },
  )
