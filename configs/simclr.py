"""SimCLR: `--config=configs/simclr.py[:cifar10|:imagenet|:quickstart]`.

`:imagenet,width=0.5` is a recipe with a narrower or wider backbone.
"""

from ml_collections import ConfigDict

from sslx.config import ConfigError, inherit

RECIPES = {
  "cifar10": "selfsup/simclr_resnet18_1xb512-coslr-200e_cifar10.py",
  "imagenet": "selfsup/simclr_resnet50_8xb32-coslr-200e_in1k.py",
  "quickstart": "selfsup/simclr_resnet18-w25_1xb256-coslr-24e_shapes.py",
}


def get_config(
  recipe: str = "cifar10", width: float | None = None
) -> ConfigDict:
  """The recipe of that name, and its backbone's width if that is given."""
  if recipe not in RECIPES:
    raise ConfigError(
      f"configs/simclr.py has no recipe {recipe!r}; it has"
      f" {', '.join(RECIPES)}."
    )
  changes = {} if width is None else {"backbone": {"width": width}}
  return inherit(RECIPES[recipe], model=changes)
