"""Resolved configs as text, their fingerprint, and their differences."""

from __future__ import annotations

import hashlib
import json
import pprint
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml
from ml_collections import ConfigDict

from sslx.config.tree import leaves, plain

# PyYAML reads 1e-3 as a string, because it has no dot.
_YAML_FLOAT = (
  "tag:yaml.org,2002:float",
  re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"),
  list("-+0123456789"),
)


class _Dumper(yaml.SafeDumper):
  pass


class YamlLoader(yaml.SafeLoader):
  """A safe YAML loader that also reads 1e-3 as a number."""


_Dumper.add_implicit_resolver(*_YAML_FLOAT)
YamlLoader.add_implicit_resolver(*_YAML_FLOAT)


def to_json(config: ConfigDict) -> str:
  """The resolved config as JSON text (tuples become lists)."""
  return json.dumps(_lists(plain(config)), indent=2) + "\n"


def to_yaml(config: ConfigDict) -> str:
  """The resolved config as YAML text (tuples become lists)."""
  return yaml.dump(
    _lists(plain(config)),
    Dumper=_Dumper,
    sort_keys=False,
    default_flow_style=None,
  )


def to_python(config: ConfigDict) -> str:
  """The resolved config as a config file that inherits nothing."""
  text = pprint.pformat(plain(config), width=76, sort_dicts=False)
  return (
    '"""A resolved config, written by sslx.config."""\n\n\n'
    "def get_config() -> dict:\n"
    '  """All sections."""\n'
    f"  return {textwrap.indent(text, '  ').lstrip()}\n"
  )


def fingerprint(config: ConfigDict) -> str:
  """16 hex digits that identify the resolved config.

  The order of keys does not matter. 1 equals 1.0, and a list equals a tuple.
  """
  text = json.dumps(
    _canonical(plain(config)), sort_keys=True, separators=(",", ":")
  )
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping, new: Mapping) -> dict[str, tuple[Any, Any]]:
  """(old value, new value) by dotted key, for all keys that differ.

  None stands for an absent key.

  Args:
    old: plain JSON values, as `json.loads(to_json(config))` gives them.
    new: the same for the other config.
  """
  flat_old, flat_new = dict(leaves(old)), dict(leaves(new))
  return {
    key: (flat_old.get(key), flat_new.get(key))
    for key in sorted(flat_old.keys() | flat_new.keys())
    if flat_old.get(key) != flat_new.get(key)
  }


def _lists(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _lists(item) for key, item in value.items()}
  if isinstance(value, tuple):
    return [_lists(item) for item in value]
  return value


def _canonical(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _canonical(item) for key, item in value.items()}
  if isinstance(value, tuple):
    return [_canonical(item) for item in value]
  if isinstance(value, float) and value.is_integer():
    return int(value)
  return value
