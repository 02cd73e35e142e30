"""Entry points: `configs/simclr.py:imagenet` picks a recipe by its argument."""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from sslx.config.errors import ConfigError, nearest
from sslx.config.files import inherit


def entry(**recipes: str) -> Callable[..., ConfigDict]:
  """Makes a `get_config` that picks one of several recipes by its argument.

  Args:
    **recipes: config file by recipe name, as `inherit` takes it. The first is
      the default.
  """
  default = next(iter(recipes))

  def get_config(
    recipe: str = default, width: int | float | None = None
  ) -> ConfigDict:
    """Returns the named recipe; `width`, if given, sets the backbone's."""
    if recipe not in recipes:
      raise ConfigError(
        f"the config has no recipe {recipe!r}; it has {', '.join(recipes)}."
        f"{nearest(recipe, recipes)}"
      )
    changes = {} if width is None else {"backbone": {"width": width}}
    return inherit(recipes[recipe], model=changes)

  return get_config
