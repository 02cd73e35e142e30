"""MoCo v3: `--config=configs/mocov3.py[:cifar10|:imagenet|:quickstart]`."""

from ml_collections import ConfigDict

from sslx.config import ConfigError, inherit

RECIPES = {
  "cifar10": "selfsup/mocov3_vit-tiny-p4_1xb256-coslr-200e_cifar10.py",
  "imagenet": "selfsup/mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k.py",
  "quickstart": "selfsup/mocov3_vit-tiny-p8-w96-d4_1xb256-coslr-24e_shapes.py",
}


def get_config(recipe: str = "cifar10") -> ConfigDict:
  """The recipe of that name."""
  if recipe not in RECIPES:
    raise ConfigError(
      f"configs/mocov3.py has no recipe {recipe!r}; it has"
      f" {', '.join(RECIPES)}."
    )
  return inherit(RECIPES[recipe])
