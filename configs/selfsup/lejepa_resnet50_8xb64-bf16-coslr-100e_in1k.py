"""LeJEPA, ResNet-50, ImageNet, 100 epochs (official figures, as far as known).

The paper has only global views for ResNets. How many is not said: four, as in
the official minimal example. Nor are the batch, the projector's output, lambda
and the length of the warm-up: they are those of the ViT-S.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A hundredth of the ViTs' weight decay."""
  return inherit(
    "../_base_/models/lejepa_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/lejepa.py:count=4,local_count=0",
    "../_base_/schedules/adamw_lejepa.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},
    data={"batch_size": 512},
    schedule={"optimizer": {"weight_decay": 5e-4}},
  )
