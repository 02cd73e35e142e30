"""Conversion between ConfigDicts and plain trees.

Configs are merged and changed as plain trees. A tree is a dict of trees, a
tuple of trees, or a leaf: None, bool, int, float, str or a reference. Trees are
never changed in place.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from sslx.config.errors import ConfigError
from sslx.config.reference import Ref

DELETE = "_delete_"


def plain(value: Any, path: str = "") -> Any:
  """Converts the return value of a config file to a tree.

  Args:
    value: nested mappings, ConfigDicts, lists, tuples and leaves.
    path: dotted path of the value in the config, for messages.

  Raises:
    ConfigError: a key cannot be read as an attribute, or a value has an
      unsupported type.
  """
  if isinstance(value, ConfigDict):
    items = value.items(preserve_field_references=True)
  elif isinstance(value, Mapping):
    items = value.items()
  elif isinstance(value, list | tuple):
    return tuple(plain(x, f"{path}.{i}") for i, x in enumerate(value))
  else:
    return _leaf(value, path)
  result = {}
  for key, item in items:
    here = f"{path}.{key}" if path else key
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*", key):
      raise ConfigError(
        f"config.{here}: the key {key!r} is not a word of letters, digits and"
        " underscores."
      )
    if hasattr(ConfigDict, key):
      raise ConfigError(
        f"config.{here}: {key!r} is a method of ConfigDict, so the key could"
        " not be read as an attribute. Choose another name."
      )
    result[key] = plain(item, here)
  return result


def _leaf(value: Any, path: str) -> Any:
  if isinstance(value, FieldReference):
    raise ConfigError(
      f"config.{path} is a FieldReference, which would lose what it refers to"
      ' in sequences and under flags. Write ref("data.batch_size") of'
      " sslx.config, or plain None for a placeholder."
    )
  if isinstance(value, float) and not math.isfinite(value):
    raise ConfigError(
      f"config.{path} is {value}; numbers must be finite. Write None for no"
      " limit."
    )
  if isinstance(value, np.generic):
    return _leaf(value.item(), path)
  if isinstance(value, pathlib.PurePath):
    return str(value)
  if value is None or isinstance(value, Ref):
    return value
  for kind in (bool, int, float, str):
    if isinstance(value, kind):
      return kind(value)
  raise ConfigError(
    f"config.{path} is {value!r} ({type(value).__name__}); a config holds None,"
    " bool, int, float, str, sequences and groups of these. Name functions and"
    " classes by a string."
  )


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the dotted path and the value of every leaf.

  A sequence without groups is one leaf, and so is an empty group. Lists count
  as sequences, so JSON values may be passed too.
  """
  if isinstance(tree, Mapping) and tree:
    items = tree.items()
  elif isinstance(tree, list | tuple) and has_group(tree):
    items = enumerate(tree)
  else:
    yield path, tree
    return
  for key, item in items:
    yield from leaves(item, f"{path}.{key}" if path else key)


def has_group(value: Any) -> bool:
  """Whether a value is a group, or a sequence with a group inside."""
  if isinstance(value, list | tuple):
    return any(map(has_group, value))
  return isinstance(value, Mapping)


def as_config(tree: dict, *, final: bool) -> ConfigDict:
  """Converts a tree to a ConfigDict, including groups inside sequences.

  Args:
    tree: a plain tree.
    final: if true, the ConfigDict is locked and refuses values of another type.
      If false, its keys may be set to anything.
  """
  config = ConfigDict(sort_keys=False, type_safe=final)
  for key, value in tree.items():
    config[key] = _as_value(value, final)
  if final:
    config.lock()
  return config


def _as_value(value: Any, final: bool) -> Any:
  if isinstance(value, dict):
    return as_config(value, final=final)
  if isinstance(value, tuple):
    return tuple(_as_value(item, final) for item in value)
  return value
