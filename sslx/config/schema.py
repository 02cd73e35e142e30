"""Settings: frozen dataclasses whose annotations say what a config may hold."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from ml_collections import ConfigDict

from sslx.config.errors import ConfigError, nearest, unknown_key

T = TypeVar("T")


def build(cls: type[T], section: Any, path: str, **given: Any) -> T:
  """Builds a settings dataclass (or Linen module) from a config section.

  Args:
    cls: a dataclass; its annotations say what each key may hold. Of a union of
      dataclasses, the one is built whose `kind: Literal[...]` the section has.
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
    values[key] = coerce(hints[key], value, f"{path}.{key}")
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


def coerce(hint: Any, value: Any, path: str) -> Any:
  """The value as the annotated type, where that loses nothing.

  Args:
    hint: an annotation: a scalar type, None, Literal, tuple, dataclass, Any, or
      a union of these.
    value: of a config.
    path: its dotted place in the config, for the message.

  Raises:
    ConfigError: it is of another type.
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if hint is Any:
    return value
  if origin in (Union, types.UnionType):
    groups = [
      option for option in arguments if dataclasses.is_dataclass(option)
    ]
    if groups and isinstance(value, Mapping | ConfigDict):
      # A group of keys has its own, more precise message.
      return build(_of_kind(groups, value, path), value, path)
    for option in arguments:
      try:
        return coerce(option, value, path)
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
          coerce(h, v, f"{path}.{i}")
          for i, (h, v) in enumerate(zip(hints, value, strict=True))
        )
  elif dataclasses.is_dataclass(hint):
    return build(hint, value, path)
  raise ConfigError(
    f"config.{path} is {value!r} ({type(value).__name__}); it must be"
    f" {_describe(hint)}."
  )


def _of_kind(classes: Sequence[type], section: Mapping, path: str) -> type:
  """The class whose `kind` the section names, or whose default it leaves."""
  if len(classes) == 1:
    return classes[0]
  kinds, default = {}, None
  for cls in classes:
    names = typing.get_args(typing.get_type_hints(cls)["kind"])
    kinds |= dict.fromkeys(names, cls)
    default = getattr(cls, "kind", default)
  kind = dict(section).get("kind", default)
  if "kind" not in section and default is None:
    raise ConfigError(
      f"config.{path}.kind is missing; it must be {_one_of(kinds)}."
    )
  if kind not in list(kinds):  # It may be of any type.
    raise ConfigError(
      f"config.{path}.kind is {kind!r}; it must be {_one_of(kinds)}."
      f"{nearest(str(kind), kinds)}"
    )
  return kinds[kind]


def _one_of(values: Any) -> str:
  return "one of " + ", ".join(map(repr, values))


def _describe(hint: Any) -> str:
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    return _one_of(arguments)
  if origin in (Union, types.UnionType):
    return " or ".join(_describe(a) for a in arguments)
  if hint is type(None):
    return "None"
  if origin is tuple:
    inner = ["..." if a is Ellipsis else _describe(a) for a in arguments]
    return f"a tuple ({', '.join(inner)})"
  return getattr(hint, "__name__", str(hint))
