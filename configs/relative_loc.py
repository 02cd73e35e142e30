"""Relative location; `:cifar10` is the default, `:imagenet`, `:quickstart`."""

from ml_collections import ConfigDict

from sslx.config import ConfigError, inherit

RECIPES = {
  "cifar10": "selfsup/relative-loc_resnet18_8xb64-steplr-70e_cifar10.py",
  "imagenet": "selfsup/relative-loc_resnet50_8xb64-steplr-70e_in1k.py",
  "quickstart": "selfsup/relative-loc_resnet18-w25_8xb32-coslr-24e_shapes.py",
}


def get_config(recipe: str = "cifar10") -> ConfigDict:
  """The recipe of that name."""
  if recipe not in RECIPES:
    raise ConfigError(
      f"configs/relative_loc.py has no recipe {recipe!r}; it has"
      f" {', '.join(RECIPES)}."
    )
  return inherit(RECIPES[recipe])
