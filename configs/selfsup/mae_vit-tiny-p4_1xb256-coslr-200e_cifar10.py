"""MAE, ViT-Ti/4, CIFAR-10, 200 epochs (solo-learn's figures, for 1000)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 MAE recipes."""
  return inherit(
    "../_base_/models/mae_vit-tiny-p4.py",
    "../_base_/datasets/cifar10_mae.py",
    "../_base_/schedules/adamw_coslr-300e.py",
    "../_base_/default_runtime.py",
    schedule={
      "epochs": 200,
      "optimizer": {
        "lr": 2e-4,
        "b2": 0.95,
        "weight_decay": 0.05,
        "exclude": ("bias$",),
        "exclude_1d": True,
      },
      "lr": {"warmup_epochs": 10.0},
    },
    runtime={
      "evaluate": {
        "features": ("pooled", "cls+pooled"),
        "knn": {"k": (200, 20), "temperature": 0.1},
      },
    },
  )
