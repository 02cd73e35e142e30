"""LeJEPA, ResNet-18, CIFAR-10, 200 epochs (our figures).

The number of views, the rate and the batch are those of the official minimal
example, which trains a ViT on ten classes of ImageNet for 800 epochs. This is a
ResNet, because a ViT learns more slowly from few images.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Four views, all of them global; a ResNet's weight decay."""
  return inherit(
    "../_base_/models/lejepa_resnet18.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/lejepa.py:32,count=4,local_count=0,smallest=0.2,blur=0",
    "../_base_/schedules/adamw_lejepa.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={
      "epochs": 200,
      "optimizer": {"lr": 2e-3, "weight_decay": 5e-4},
    },
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
