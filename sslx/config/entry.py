"""Entry points: `configs/simclr.py:imagenet` picks a recipe by its argument."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from sslx.config.errors import ConfigError, nearest
from sslx.config.files import inherit


def entry(**recipes: str) -> Callable[..., ConfigDict]:
  """The `get_config` of a config file that picks one of several recipes.

  Args:
    **recipes: name to config file, as `inherit` takes it; the first is the
      default.
  """
  default = next(iter(recipes))

  def get_config(
    recipe: str = default, width: int | float | None = None
  ) -> ConfigDict:
    """The recipe of that name, and its backbone's width if that is given."""
    if recipe not in recipes:
      raise ConfigError(
        f"the config has no recipe {recipe!r}; it has {', '.join(recipes)}."
        f"{nearest(recipe, recipes)}"
      )
    changes = {} if width is None else {"backbone": {"width": width}}
    return inherit(recipes[recipe], model=changes)

  return get_config
