"""LeJEPA, ViT-L/14, ImageNet, 100 epochs (official figures, as far as known).

The README does not say the batch, the projector's output, lambda or the length
of the warm-up: they are those of the ViT-S. Nor does it say the patches' size,
but 14 divides its local views of 98 px, and 16 does not.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Parameters sharded over the devices, activations computed anew."""
  return inherit(
    "../_base_/models/lejepa_vit-small-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/lejepa.py",
    "../_base_/schedules/adamw_lejepa.py",
    "../_base_/default_runtime.py",
    model={
      "backbone": {"variant": "large", "patch_size": 14, "remat": True},
      "dtype": "bfloat16",
    },
    data={"batch_size": 512},
    runtime={"parallel": {"rules": "fsdp"}},
  )
