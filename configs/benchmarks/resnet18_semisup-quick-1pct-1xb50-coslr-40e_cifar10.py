"""Fine-tuning with 1 % of the labels, for small machines; ours, of no paper.

The first 1 % of the training split; CIFAR-10's is in random order.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """A protocol; see `sslx.evaluate.trained`."""
  return inherit(
    "./resnet18_ft-quick-1xb256-coslr-10e_cifar10.py",
    data={"batch_size": 50, "train": "train[:1%]"},
    schedule={"epochs": 40},
    runtime={"evaluate": {"every_epochs": 40.0}},
  )
