"""LeJEPA, ViT-S/16, ImageNet, batch 512, 100 epochs (lightly's figures).

lightly reports 64.0 %, linear, and 47.1 %, kNN, of a loss that leaves the
global views out of SIGReg and out of the distance. It solarises only one of the
views; here all have the official colours. Its local views are of 96 px, because
16 does not divide the official 98.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet LeJEPA recipes."""
  return inherit(
    "../_base_/models/lejepa_vit-small-p16.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/lejepa.py:local_size=96",
    "../_base_/schedules/adamw_lejepa.py",
    "../_base_/default_runtime.py",
    model={"dtype": "bfloat16"},
    data={"batch_size": 512},
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
