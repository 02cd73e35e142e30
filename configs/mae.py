"""MAE: `--config=configs/mae.py[:cifar10|:imagenet|:quickstart]`."""

from ml_collections import ConfigDict

from sslx.config import ConfigError, inherit

RECIPES = {
  "cifar10": "selfsup/mae_vit-small-p4-h12_1xb256-coslr-200e_cifar10.py",
  "imagenet": "selfsup/mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k.py",
  "quickstart": "selfsup/mae_vit-tiny-p4-w96-d4_1xb256-coslr-24e_shapes.py",
}


def get_config(recipe: str = "cifar10") -> ConfigDict:
  """The recipe of that name."""
  if recipe not in RECIPES:
    raise ConfigError(
      f"configs/mae.py has no recipe {recipe!r}; it has {', '.join(RECIPES)}."
    )
  return inherit(RECIPES[recipe])
