"""BYOL, ResNet-18, CIFAR-10, 200 epochs (solo-learn's figures).

solo-learn trains for 1000 epochs (`--config.schedule.epochs=1000`), in mixed
float16, and reports 92.58 %, linear, of a classifier that learns during the
run. What sslx cannot say: there the first convolution pads by 2, not 1.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 BYOL recipes."""
  return inherit(
    "../_base_/models/byol_resnet18.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/byol.py:32,blur=(0,0),interpolation=bicubic",
    "../_base_/schedules/larc_coslr-100e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={
      "epochs": 200,
      "optimizer": {
        "lr": 1.0,
        "weight_decay": 1e-5,
        "trust_coefficient": 0.02,
        "trust_clip": True,
      },
      "lr": {"warmup_from": 3e-5},
    },
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
