"""Configs: inheritance, overrides, comparison, and typed settings.

A config file is Python with `get_config()` (optionally `get_config(arg)` for
`--config=file.py:arg`) that returns a ConfigDict of four sections: `model`,
`data`, `schedule` and `runtime`. Settings classes are frozen dataclasses; their
annotations are the schema that a section is checked against by `build`.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import json
import pathlib
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

from ml_collections import ConfigDict

T = TypeVar("T")

SECTIONS = ("model", "data", "schedule", "runtime")


class ConfigError(ValueError):
  """A config that cannot run; the message names the key, value and fix."""


def load(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
  """Loads a config file, and sets keys of it.

  Args:
    spec: `path.py`, or `path.py:argument`.
    overrides: (dotted key, text of the value), as `split_overrides` gives them;
      the later one wins.

  Raises:
    ConfigError: the file does not exist, has no `get_config`, does not take the
      argument, or does not return the four sections; or see `override`.
  """
  file, _, argument = spec.partition(":")
  config = _call_get_config(pathlib.Path(file), argument)
  for key in config:
    if key not in SECTIONS:
      raise ConfigError(unknown_key(key, SECTIONS))
  for key in SECTIONS:
    if key not in config:
      raise ConfigError(f"{file}: the config has no section {key!r}.")
  for path, text in overrides:
    override(config, path, text)
  return config


def inherit(*bases: str, **changes: Any) -> ConfigDict:
  """Merges base configs, in order, and then the changes of the caller.

  Mappings merge key by key; scalars and sequences replace what they override.

  Args:
    *bases: config files, relative to the file that calls `inherit`.
    **changes: one mapping per section.

  Raises:
    ConfigError: a base that does not exist, or a mapping where the base has a
      value (or the other way round).
  """
  here = pathlib.Path(inspect.stack()[1].filename).parent
  config = ConfigDict(sort_keys=False)
  for base in bases:
    _merge(config, _call_get_config((here / base).resolve(), ""), "")
  _merge(config, changes, "")
  return config


def override(config: ConfigDict, path: str, text: str) -> None:
  """Sets one existing key from the command line, in place.

  Args:
    config: what to change.
    path: dotted keys; elements of sequences by number (`data.views.0.size`).
    text: a Python literal, or a bare string.

  Raises:
    ConfigError: the key does not exist, or holds a value of another type.
  """
  keys = re.sub(r"\[(-?\d+)\]", r".\1", path).split(".")
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text
  config.unlock()
  _assign(config, keys, value, path)


def split_overrides(
  argv: Iterable[str],
) -> tuple[list[tuple[str, str]], list[str]]:
  """Takes the `--config.a.b=value` arguments out of a command line.

  Returns:
    (dotted key, text of the value) of each, in order; all other arguments.

  Raises:
    ConfigError: such an argument without `=`.
  """
  overrides, rest = [], []
  for argument in argv:
    match = re.fullmatch(r"--?config\.([^=]+)=(.*)", argument, re.DOTALL)
    if match:
      overrides.append(match.groups())
    elif re.match(r"--?config\.", argument):
      raise ConfigError(f"{argument} has no value; write {argument}=VALUE.")
    else:
      rest.append(argument)
  return overrides, rest


def build(cls: type[T], section: Any, path: str, **given: Any) -> T:
  """Builds a settings dataclass (or Linen module) from a config section.

  Args:
    cls: a dataclass; its annotations say what each key may hold.
    section: mapping of key to value, as in the config file.
    path: the section's dotted place in the config, for error messages.
    **given: fields that do not come from this section.

  Raises:
    ConfigError: an unknown or missing key, a value of another type, or a value
      that the class itself refuses (a ValueError of its `__post_init__`).
  """
  if not isinstance(section, Mapping | ConfigDict):
    raise ConfigError(
      f"config.{path} is {section!r}; it must be a group of keys."
    )
  hints = typing.get_type_hints(cls)
  linen_own = ("parent", "name") if hasattr(cls, "apply") else ()
  fields = {
    f.name: f
    for f in dataclasses.fields(cls)
    if f.init and f.name not in (*linen_own, *given)
  }
  values = {}
  for key, value in dict(section).items():
    if key not in fields:
      raise ConfigError(unknown_key(f"{path}.{key}", fields))
    values[key] = _coerce(hints[key], value, f"{path}.{key}")
  for key, field in fields.items():
    required = (
      field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    )
    if required and key not in values:
      raise ConfigError(
        f"config.{path}.{key} is missing; it must be {_describe(hints[key])}."
      )
  try:
    return cls(**values, **given)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(f"config.{path}: {error}") from None


def require(settings: Any, key: str, ok: bool, accepted: str) -> None:
  """Raises the ValueError of a settings class whose field is not `ok`."""
  if not ok:
    value = getattr(settings, key)
    raise ValueError(f"{key} is {value!r}; it must be {accepted}.")


def to_json(config: ConfigDict) -> str:
  """The resolved config as JSON text (tuples become lists)."""
  return json.dumps(_plain(config), indent=2) + "\n"


def differences(old: Mapping, new: Mapping) -> dict[str, tuple[Any, Any]]:
  """Dotted key to (old value, new value), for all that differs; None = absent.

  Both are plain JSON values, as `json.loads(to_json(config))` gives them.
  """
  flat_old, flat_new = dict(_flatten(old)), dict(_flatten(new))
  return {
    key: (flat_old.get(key), flat_new.get(key))
    for key in sorted(flat_old.keys() | flat_new.keys())
    if flat_old.get(key) != flat_new.get(key)
  }


def unknown_key(full: str, known: Iterable[str]) -> str:
  """The message for a key that does not exist, with the nearest that does."""
  known = sorted(known)
  near = difflib.get_close_matches(full.rpartition(".")[2], known, n=1)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  return f"config.{full} does not exist.{hint} Keys here: {', '.join(known)}."


def _call_get_config(file: pathlib.Path, argument: str) -> ConfigDict:
  if not file.is_file():
    raise ConfigError(f"config file {str(file)!r} does not exist.")
  spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
  module = importlib.util.module_from_spec(spec)
  # Executed afresh each time, and left out of sys.modules: two configs may
  # well have the same file name.
  keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
  try:
    spec.loader.exec_module(module)
  finally:
    sys.dont_write_bytecode = keep
  if not hasattr(module, "get_config"):
    raise ConfigError(f"{file}: there is no function get_config() in it.")
  if not argument:
    return module.get_config()
  if not inspect.signature(module.get_config).parameters:
    raise ConfigError(f"{file} takes no argument, but was given {argument!r}.")
  return module.get_config(argument)


def _merge(target: ConfigDict, changes: Mapping, path: str) -> None:
  for key, value in changes.items():
    here = f"{path}{key}"
    if isinstance(value, Mapping | ConfigDict):
      if key not in target:
        target[key] = ConfigDict(sort_keys=False)
      if not isinstance(target[key], ConfigDict):
        raise ConfigError(
          f"config.{here}: a group of keys cannot replace the value"
          f" {target[key]!r}."
        )
      _merge(target[key], value, here + ".")
    elif isinstance(target.get(key), ConfigDict):
      raise ConfigError(
        f"config.{here}: the value {value!r} cannot replace a group of keys"
        f" ({', '.join(target[key])})."
      )
    else:
      # A plain set would check the new value against the type of the old.
      with target.ignore_type():
        target[key] = value


def _assign(node: Any, keys: list[str], value: Any, path: str) -> None:
  key, rest = keys[0], keys[1:]
  if isinstance(node, Mapping | ConfigDict):
    if key not in node:
      above = path.split(".")[: len(path.split(".")) - len(rest) - 1]
      raise ConfigError(unknown_key(".".join([*above, key]), node))
    old = node[key]
  elif isinstance(node, list | tuple):
    if not re.fullmatch(r"-?\d+", key) or not (
      -len(node) <= int(key) < len(node)
    ):
      raise ConfigError(
        f"config.{path}: there is no element {key!r}; the sequence has"
        f" {len(node)} elements."
      )
    key = int(key)
    old = node[key]
  else:
    raise ConfigError(
      f"config.{path}: {key!r} is not a key of the value {node!r}."
    )
  if rest and isinstance(old, tuple):
    old = list(old)  # changed in place below, and put back as a tuple
    _assign(old, rest, value, path)
    new = tuple(old)
  elif rest:
    _assign(old, rest, value, path)
    return
  else:
    new = _like(old, value, path)
  if isinstance(node, ConfigDict):
    with node.ignore_type():
      node[key] = new
  else:
    node[key] = new


def _like(old: Any, new: Any, path: str) -> Any:
  """The new value, as the type of the old one."""
  if isinstance(old, ConfigDict | Mapping):
    raise ConfigError(
      f"config.{path} is a group of keys ({', '.join(old)}); set one of them."
    )
  if old is None or new is None:
    return new
  if isinstance(old, str):
    return str(new)
  same = {bool: bool, int: int, float: float, tuple: tuple, list: tuple}
  return _coerce(same.get(type(old), Any), new, path)


def _coerce(hint: Any, value: Any, path: str) -> Any:
  """The value as the annotated type, where that loses nothing."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return value
  if origin in (Union, types.UnionType):
    groups = [x for x in arguments if dataclasses.is_dataclass(x)]
    if groups and isinstance(value, Mapping | ConfigDict):
      # A group of keys has its own, more precise message.
      return build(_of_kind(groups, value, path), value, path)
    for option in arguments:
      try:
        return _coerce(option, value, path)
      except ConfigError:
        continue
  elif origin is Literal:
    if value in arguments and not isinstance(value, bool):
      return value
  elif hint is type(None):
    if value is None:
      return None
  elif hint is bool:
    if isinstance(value, bool):
      return value
  elif hint is int:
    if isinstance(value, int | float) and not isinstance(value, bool):
      if float(value).is_integer():
        return int(value)
  elif hint is float:
    if isinstance(value, int | float) and not isinstance(value, bool):
      return float(value)
  elif hint is str:
    if isinstance(value, str):
      return value
  elif (origin or hint) is tuple:
    if isinstance(value, tuple | list):
      if not arguments:
        return tuple(value)
      many = len(arguments) == 2 and arguments[1] is Ellipsis
      if many or len(arguments) == len(value):
        hints = [arguments[0]] * len(value) if many else arguments
        return tuple(
          _coerce(h, v, f"{path}.{i}")
          for i, (h, v) in enumerate(zip(hints, value, strict=True))
        )
  elif dataclasses.is_dataclass(hint):
    return build(hint, value, path)
  raise ConfigError(
    f"config.{path} is {value!r} ({type(value).__name__}); it must be"
    f" {_describe(hint)}."
  )


def _of_kind(classes: list[type], section: Mapping, path: str) -> type:
  """The class whose `kind: Literal[...]` the section names, if there are many.

  The first one needs no naming.
  """
  kinds = {
    typing.get_args(typing.get_type_hints(x)["kind"])[0]: x
    for x in classes
    if len(classes) > 1
  }
  kind = section.get("kind", next(iter(kinds), None))
  if kinds and kind not in list(kinds):  # It may be of any type.
    raise ConfigError(
      f"config.{path}.kind is {kind!r}; it must be one of"
      f" {', '.join(map(repr, kinds))}."
    )
  return kinds.get(kind, classes[0])


def _describe(hint: Any) -> str:
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    return "one of " + ", ".join(map(repr, arguments))
  if origin in (Union, types.UnionType):
    return " or ".join(_describe(a) for a in arguments)
  if hint is type(None):
    return "None"
  if origin is tuple:
    inner = ["..." if a is Ellipsis else _describe(a) for a in arguments]
    return f"a tuple ({', '.join(inner)})"
  return getattr(hint, "__name__", str(hint))


def _plain(value: Any) -> Any:
  if isinstance(value, Mapping | ConfigDict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  return value


def _flatten(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
  if isinstance(value, Mapping) and value:
    for key, item in value.items():
      yield from _flatten(item, f"{path}.{key}" if path else key)
  elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
    for i, item in enumerate(value):
      yield from _flatten(item, f"{path}.{i}")
  else:
    yield path, value
