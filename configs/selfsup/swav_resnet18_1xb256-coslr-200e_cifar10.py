"""SwAV, ResNet-18, CIFAR-10, two views, 200 epochs (solo-learn's figures).

solo-learn trains for 1000 epochs (`--config.schedule.epochs=1000`), in mixed
float16, and reports 89.17 %, linear. What sslx cannot say: there the first
convolution pads by 2, not 1; the queue is full when it is first used, not 15
steps later; a weight norm holds the prototypes, not a projection in each step.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 SwAV recipes."""
  return inherit(
    "../_base_/models/swav_resnet18.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/simclr.py:32,interpolation=bicubic",
    "../_base_/schedules/larc_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 256},
    schedule={
      "optimizer": {
        "trust_coefficient": 0.02,
        "trust_clip": True,
        "exclude_1d": True,
        "rules": (("prototypes", {"freeze": {"steps": 390}}),),
      },
      "lr": {
        "warmup": 10.0,
        "warmup_from": 3e-5 / 0.6,
        "final": 0.0,
      },
    },
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
