"""SwAV, ResNet-18, CIFAR-10, multi-crop, 200 epochs (solo-learn's figures).

solo-learn trains for 1000 epochs (`--config.schedule.epochs=1000`), in mixed
float16. What else differs is in the recipe without multi-crop.
"""

from ml_collections import ConfigDict

from sslx.config import inherit


def get_config() -> ConfigDict:
  """Two views of 32 px and six of 18; the rate ends at 6e-4."""
  first = {
    "size": 32,
    "crop_scale": (0.2, 1.0),
    "interpolation": "bicubic",
    "flip": 0.5,
    "jitter": (0.6, 0.6, 0.6, 0.2),
    "jitter_prob": 0.8,
    "grey": 0.2,
    "blur_sigma": (0.1, 2.0),
  }
  second = first | {"solarize": 0.2}
  small = first | {
    "size": 18,
    "count": 6,
    "crop_scale": (0.08, 0.5),
    "jitter": (0.8, 0.8, 0.8, 0.2),
    "blur": 0.1,
    "solarize": 0.1,
  }
  return inherit(
    "./swav_resnet18_1xb256-coslr-200e_cifar10.py",
    data={"views": (first, second, small)},
    schedule={"lr": {"final": 6e-4 / 0.6}},
  )
