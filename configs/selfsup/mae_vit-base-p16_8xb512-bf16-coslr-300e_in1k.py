"""MAE, ViT-B/16, ImageNet, batch 4096, 300 epochs (official figures).

For as many epochs as MMSelfSup, which decays neither token and warms up from
1e-4 of the rate; the official code has 800 or more.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet MAE recipes."""
  return inherit(
    "../_base_/models/mae_vit-base-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/mae.py",
    "../_base_/schedules/adamw_coslr-300e.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},  # There mixed float16, with loss scaling.
    data={"batch_size": 4096, "centre": {"interpolation": "bicubic"}},
    schedule={
      "optimizer": {
        "b2": 0.95,
        "weight_decay": 0.05,
        # The class and mask tokens are decayed, as in the official code.
        "exclude_1d": True,
      },
    },
    runtime={"evaluate": {"features": ("pooled", "cls+pooled")}},
  )
