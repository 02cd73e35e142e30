"""Fine-tuning with 10 % of the labels, for small machines; ours, of no paper.

The first 10 % of the training split; CIFAR-10's is in random order.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./resnet18_ft-quick-1xb256-coslr-10e_cifar10.py",
    data={"batch_size": 250, "train": "train[:10%]"},
    schedule={"epochs": 15},
    runtime={"evaluate": {"every_epochs": 15.0}},
  )
