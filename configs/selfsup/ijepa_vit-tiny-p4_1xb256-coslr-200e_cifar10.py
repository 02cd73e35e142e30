"""I-JEPA, ViT-Ti/4, CIFAR-10, 200 epochs (our figures).

No one has published any: the official ones for ImageNet, with half the learning
rate and half the warm-up, and a predictor half as wide and deep as the encoder.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 I-JEPA recipes."""
  return inherit(
    "../_base_/models/ijepa_vit-tiny-p4.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/mae.py:32,smallest=0.3,interpolation=bilinear,flip=0",
    "../_base_/schedules/adamw_ijepa.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={
      "epochs": 200,
      "optimizer": {"lr": 5e-4},
      "lr": {"warmup": 20.0},
    },
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
