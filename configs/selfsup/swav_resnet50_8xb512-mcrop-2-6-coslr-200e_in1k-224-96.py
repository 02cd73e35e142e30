"""SwAV, ResNet-50, ImageNet, batch 4096, 200 epochs (official figures)."""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """No queue; the learning rate warms up from 0.3 to 4.8.

  BatchNorm is synchronised over 8 GPUs of 64 images, as in the official code.
  """
  return inherit(
    "./swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96.py",
    model={"queue_size": 0, "queue_start": 0.0, "norm_groups": 8},
    data={"batch_size": 4096},
    schedule={
      # Not by the linear rule from 0.6 at 256.
      "optimizer": {
        "lr": 4.8,
        "lr_batch": 4096,
        "rules": (("prototypes", {"freeze": {"steps": 313}}),),
      },
      "lr": {"warmup": 10.0, "warmup_from": 0.3 / 4.8},
    },
  )
