"""MoCo v3, ViT-B/16, ImageNet, batch 4096, 300 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet MoCo v3 ViT recipes."""
  return inherit(
    "../_base_/models/mocov3_vit-base-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/byol.py",
    "../_base_/schedules/adamw_coslr-300e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 4096},
    runtime={"evaluate": {"features": ("pooled", "cls+pooled")}},
  )
