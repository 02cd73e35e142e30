"""I-JEPA, ViT-H/14, ImageNet, batch 2048, 300 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet I-JEPA recipes.

  Parameters are sharded over the devices, and activations computed anew.
  """
  return inherit(
    "../_base_/models/ijepa_vit-base-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/mae.py:224,smallest=0.3,interpolation=bilinear,flip=0",
    "../_base_/schedules/adamw_ijepa.py",
    "../_base_/default_runtime.py",
    model={
      "backbone": {"variant": "huge", "patch_size": 14, "remat": True},
      "predictor": {"depth": 12, "heads": 16, "remat": True},
      "dtype": "bfloat16",
    },
    data={"batch_size": 2048},
    runtime={"parallel": {"rules": "fsdp"}},
  )
