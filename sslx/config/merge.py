"""Merges the changes of a config into the config that it inherits."""

from __future__ import annotations

from typing import Any

from sslx.config.errors import ConfigError
from sslx.config.tree import DELETE


def merge(base: dict, changes: dict, path: str = "") -> dict:
  """Merges changes into a base.

  Groups merge key by key. Any other value replaces the inherited one. A group
  with `_delete_=True` also replaces, and there must be something to replace.
  None may replace a group and a group may replace None, to switch a part off or
  on. Any other change between a group and a value is an error.

  Args:
    base: a tree.
    changes: a tree.
    path: dotted path of both in the config, with a dot at the end, for
      messages.

  Returns:
    A tree without `_delete_`.

  Raises:
    ConfigError: a group would replace a value, a value would replace a group,
      or a `_delete_` has nothing to delete.
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
        f" Add {DELETE}=True to the group to replace the value."
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
  """Returns the tree unchanged; it must contain no `_delete_`.

  The tree replaces a whole value, so it has nothing to merge into.

  Raises:
    ConfigError: it contains a `_delete_`.
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
