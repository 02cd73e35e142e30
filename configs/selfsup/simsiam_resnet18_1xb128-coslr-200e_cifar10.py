"""SimSiam, ResNet-18, CIFAR-10, 200 epochs.

The figures of lightly's CIFAR-10 benchmark (batch 128, 200 epochs), which
reports a kNN accuracy (k=200, T=0.1) of 81.9 %, the best of all epochs. It
decays the predictor's learning rate too. Its ResNet starts from torch's default
weights, ours from torchvision's.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """The primitive config of the folder's CIFAR-10 SimSiam recipes."""
  return inherit(
    "../_base_/models/simsiam_resnet18.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/datasets/views/simclr.py:32,smallest=0.2,jitter=(0.4,0.4,0.4,0.1),blur=0",
    "../_base_/schedules/sgd_coslr-200e.py",
    "../_base_/default_runtime.py",
    data={
      "batch_size": 128,
      "mean": (0.485, 0.456, 0.406),
      "std": (0.229, 0.224, 0.225),
    },
    schedule={"lr": {"per": "epoch"}},
    runtime={"evaluate": {"knn": {"k": (200, 20), "temperature": 0.1}}},
  )
