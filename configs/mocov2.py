"""MoCo v2: `--config=configs/mocov2.py[:cifar10|:imagenet|:quickstart]`."""

from ml_collections import ConfigDict

from sslx.config import ConfigError, inherit

RECIPES = {
  "cifar10": "selfsup/mocov2_resnet18_8xb64-coslr-200e_cifar10.py",
  "imagenet": "selfsup/mocov2_resnet50_8xb32-coslr-200e_in1k.py",
  "quickstart": "selfsup/mocov2_resnet18-w25_8xb32-coslr-24e_shapes.py",
}


def get_config(recipe: str = "cifar10") -> ConfigDict:
  """The recipe of that name."""
  if recipe not in RECIPES:
    raise ConfigError(
      f"configs/mocov2.py has no recipe {recipe!r}; it has"
      f" {', '.join(RECIPES)}."
    )
  return inherit(RECIPES[recipe])
