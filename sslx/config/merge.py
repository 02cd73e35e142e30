"""How the changes of a config are merged into what it inherits."""

from __future__ import annotations

from typing import Any

from sslx.config.errors import ConfigError
from sslx.config.tree import DELETE


def merge(base: dict, changes: dict, path: str = "") -> dict:
  """What a config that makes these changes to a base is.

  Groups merge key by key; anything else replaces what was there. A group with
  `_delete_=True` replaces too, and must find something to replace. None and a
  group replace each other (a part that is off, or on); any other change from
  group to value or back is taken for a mistake.

  Args:
    base: a tree.
    changes: a tree.
    path: of both in the config, with a dot at the end, for messages.

  Returns:
    A tree without `_delete_`.

  Raises:
    ConfigError: a group in place of a value, a value in place of a group, or a
      `_delete_` with nothing to delete.
  """
  result = dict(base)
  for key, value in changes.items():
    here, there = f"{path}{key}", base.get(key)
    if isinstance(value, dict) and DELETE in value and key in base:
      if value[DELETE] is not True:
        raise ConfigError(
          f"config.{here}.{DELETE} is {value[DELETE]!r}; it must be True, or be"
          " left out to merge."
        )
      kept = {k: v for k, v in value.items() if k != DELETE}
      result[key] = checked(kept, here)
    elif isinstance(value, dict) and isinstance(there, dict):
      result[key] = merge(there, value, f"{here}.")
    elif isinstance(value, dict) and there is not None:
      raise ConfigError(
        f"config.{here}: a group of keys cannot replace the value {there!r}."
        f" Add {DELETE}=True to the group if it shall."
      )
    elif isinstance(there, dict) and value is not None:
      raise ConfigError(
        f"config.{here}: the value {value!r} cannot replace a group of keys"
        f" ({', '.join(there)})."
      )
    else:
      result[key] = checked({key: value}, path[:-1])[key]
  return result


def checked(value: Any, path: str) -> Any:
  """The same tree, which replaces something whole and so deletes nothing.

  Raises:
    ConfigError: there is a `_delete_` in it.
  """
  if isinstance(value, dict):
    if DELETE in value:
      raise ConfigError(
        f"config.{path or '<top>'} has {DELETE}, but there is nothing inherited"
        f" to delete. Remove {DELETE}."
      )
    for key, item in value.items():
      checked(item, f"{path}.{key}" if path else key)
  elif isinstance(value, tuple):
    for i, item in enumerate(value):
      checked(item, f"{path}.{i}")
  return value
