"""SimCLR: `--config=configs/simclr.py[:cifar10|:imagenet|:quickstart]`."""

from ml_collections import ConfigDict

from sslx.config import ConfigError, inherit

RECIPES = {
  "cifar10": "selfsup/simclr_resnet18_1xb512-coslr-200e_cifar10.py",
  "imagenet": "selfsup/simclr_resnet50_8xb32-coslr-200e_in1k.py",
  "quickstart": "selfsup/simclr_resnet18_1xb256-coslr-24e_shapes.py",
}


def get_config(recipe: str = "cifar10") -> ConfigDict:
  """The recipe of that name."""
  if recipe not in RECIPES:
    raise ConfigError(
      f"configs/simclr.py has no recipe {recipe!r}; it has"
      f" {', '.join(RECIPES)}."
    )
  return inherit(RECIPES[recipe])
