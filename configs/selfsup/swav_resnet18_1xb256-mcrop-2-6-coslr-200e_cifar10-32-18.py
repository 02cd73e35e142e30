"""SwAV, ResNet-18, CIFAR-10, multi-crop, 200 epochs (solo-learn's figures).

solo-learn trains for 1000 epochs (`--config.schedule.epochs=1000`), in mixed
float16. What else differs is in the recipe without multi-crop.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Two views of 32 px and six of 18; the rate ends at 6e-4."""
  return inherit(
    "../_base_/models/swav_resnet18.py",
    "../_base_/datasets/cifar10_swav-mcrop-2-6.py",
    "../_base_/schedules/larc_coslr-200e.py",
    "../_base_/default_runtime.py",
    schedule={
      "optimizer": {
        "trust_coefficient": 0.02,
        "trust_clip": True,
        "exclude_1d": True,
        "freeze_steps": 390,
      },
      "lr": {
        "warmup_epochs": 10.0,
        "warmup_from": 3e-5 / 0.6,
        "final": 6e-4 / 0.6,
      },
    },
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
