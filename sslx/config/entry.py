"""Entry points: `configs/simclr.py:imagenet` picks a recipe by its argument."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from ml_collections import ConfigDict

from sslx.config import shipped
from sslx.config.errors import ConfigError
from sslx.config.files import inherit


def entry(file: str, **recipes: str) -> Callable[..., ConfigDict]:
  """The `get_config` of a file that picks one of several recipes.

  Args:
    file: the config file, `__file__`.
    **recipes: name to config file, relative to that file's folder or
      `sslx:...`; the first is the default.
  """
  default, folder = next(iter(recipes)), pathlib.Path(file).parent

  def get_config(
    recipe: str = default, width: int | float | None = None
  ) -> ConfigDict:
    """The recipe of that name, and its backbone's width if that is given."""
    if recipe not in recipes:
      raise ConfigError(
        f"{pathlib.Path(file).name} has no recipe {recipe!r}; it has"
        f" {', '.join(recipes)}."
      )
    found = shipped.find(recipes[recipe], folder)
    changes = {} if width is None else {"backbone": {"width": width}}
    return inherit(str(found), model=changes)

  return get_config
