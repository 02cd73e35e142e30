"""SimSiam, ResNet-50, ImageNet, batch 256, 100 epochs (official figures).

It reports 68.3 %, linear.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The linear rule makes the learning rate 0.05."""
  return inherit(
    "./simsiam_resnet50_8xb64-coslr-100e_in1k.py",
    data={"batch_size": 256},
  )
