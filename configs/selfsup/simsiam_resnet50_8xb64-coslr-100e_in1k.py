"""SimSiam, ResNet-50, ImageNet, batch 512, 100 epochs (official figures).

It reports 68.1 %, linear. The bias before the projector's last BatchNorm, which
is frozen there, is left out.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's ImageNet SimSiam recipes."""
  return inherit(
    "../_base_/models/simsiam_resnet50.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/datasets/views/simclr.py:smallest=0.2,jitter=(0.4,0.4,0.4,0.1)",
    "../_base_/schedules/sgd_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={"batch_size": 512},
    schedule={
      "epochs": 100,
      "optimizer": {
        "lr": 0.05,
        "lr_batch": 256,
        "weight_decay": 1e-4,
        # The predictor's rate stays, as by `--fix-pred-lr`.
        "rules": (("predictor/", {"schedule": {"kind": "constant"}}),),
      },
      "lr": {"per": "epoch"},
    },
  )
