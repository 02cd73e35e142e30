"""CIFAR-10, normalised by its own mean and standard deviation."""


def get_config() -> dict:
  """Section `data`, but for views and batch."""
  return {
    "data": {
      "source": "cifar10",
      "mean": (0.4914, 0.4822, 0.4465),
      "std": (0.2470, 0.2435, 0.2616),
    }
  }
