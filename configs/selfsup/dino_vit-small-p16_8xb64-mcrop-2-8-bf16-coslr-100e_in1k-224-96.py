"""DINO, ViT-S/16, ImageNet, batch 512, 100 epochs (official figures).

The "vanilla" run of its README, which reports a kNN accuracy of 69.3 % and
74.0 %, linear. There positions are resized to a small crop without
antialiasing.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet DINO recipes of a ViT."""
  return inherit(
    "../_base_/models/dino_vit-small-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/dino.py",
    "../_base_/schedules/adamw_dino-100e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 512},
  )
