"""DINO, ViT-Ti/4, CIFAR-10, 200 epochs (our figures).

No one has published any of a ViT: the official ones for ImageNet, with a
narrower head, six small crops, no blur, and a teacher that follows faster.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 DINO recipes."""
  return inherit(
    "../_base_/models/dino_vit-tiny-p4.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/dino.py:32,16,6,least=0.1,blur=(0,0,0)",
    "../_base_/schedules/adamw_dino-100e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={"epochs": 200},
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
