"""Makes instances of settings classes; checks and converts their values."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from ml_collections import ConfigDict

from sslx.config.errors import ConfigError, unknown_key
from sslx.config.schema import (
  MISSING,
  Choice,
  fields_of,
  group_of,
  one_of,
  options,
)

T = TypeVar("T")
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


def build(cls: type[T], section: Any, path: str, **given: Any) -> T:
  """Builds a settings dataclass (or Linen module) from a config section.

  Args:
    cls: a dataclass, whose annotations define the keys, or a Choice of several.
    section: mapping of key to value, as in the config file.
    path: dotted path of the section in the config, for error messages.
    **given: fields that do not come from the config. Each class in this section
      takes those that it has.

  Raises:
    ConfigError: a key is unknown or missing, a value has the wrong type, or the
      class itself refuses a value (its `__post_init__` raises ValueError).
  """
  section, chosen = _mapping(section, path), ()
  if isinstance(cls, Choice):
    chosen, cls = (cls.key,), cls.of(section, path)
    section.pop(*chosen, None)
  fields = fields_of(cls, tuple(given))
  values = {}
  for key, value in section.items():
    if key not in fields:
      known = (*fields, *chosen)
      raise ConfigError(unknown_key(f"{path}.{key}", known))
    values[key] = coerce(fields[key].hint, value, f"{path}.{key}", given)
  for key, field in fields.items():
    if field.default is MISSING and key not in values:
      raise ConfigError(
        f"config.{path}.{key} is missing; it must be {describe(field.hint)}."
      )
  names = {field.name for field in dataclasses.fields(cls)}
  values |= {key: value for key, value in given.items() if key in names}
  try:
    return cls(**values)
  except ConfigError:
    raise
  except ValueError as error:
    # Most messages begin with the name of a field, or with a dotted path.
    named = re.match(r"\w+", str(error))
    dot = "." if named and named[0] in names else ": "
    raise ConfigError(f"config.{path}{dot}{error}") from None


def require(settings: Any, key: str, ok: bool, accepted: str) -> None:
  """Raises ValueError unless `ok`; the message names the field and its value.

  Args:
    settings: instance of a settings class.
    key: name of the field.
    ok: whether its value is accepted.
    accepted: description of the accepted values.
  """
  if not ok:
    value = getattr(settings, key)
    raise ValueError(f"{key} is {value!r}; it must be {accepted}.")


def coerce(
  hint: Any, value: Any, path: str, given: Mapping[str, Any] = _NOTHING
) -> Any:
  """Converts a value to the annotated type, if that loses no information.

  Args:
    hint: an annotation: a scalar type, None, Literal, tuple, dataclass, Choice,
      Any, or a union of these.
    value: value in a config.
    path: dotted path of the value in the config, for the message.
    given: see `build`.

  Raises:
    ConfigError: the value has another type.
  """
  if hint is Any:
    return value
  if isinstance(hint, Choice):
    return build(hint, value, path, **given)
  group = group_of(hint)
  if group and isinstance(value, Mapping | ConfigDict):
    # `build` has more precise messages for a group of keys.
    return build(group, value, path, **given)
  for option in options(hint):
    try:
      return _coerced(option, value, path, given)
    except TypeError:
      continue
  raise ConfigError(
    f"config.{path} is {value!r} ({type(value).__name__}); it must be"
    f" {describe(hint)}."
  )


def _coerced(hint: Any, value: Any, path: str, given: Mapping[str, Any]) -> Any:
  """Converts a value to one option of a union.

  Raises:
    TypeError: the value does not have this type.
    ConfigError: an element of the value has the wrong type.
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if origin is Literal:
    if value in arguments and not isinstance(value, bool):
      return value
  elif hint is int:
    if number and abs(value) < 2**63 and float(value).is_integer():
      return int(value)
  elif hint is float:
    if number:
      return float(value)
  elif hint in (bool, str, type(None)):
    if isinstance(value, hint):
      return value
  elif (origin or hint) is tuple and isinstance(value, tuple | list):
    if not arguments:
      return tuple(value)
    many = len(arguments) == 2 and arguments[1] is Ellipsis
    if many or len(arguments) == len(value):
      hints = [arguments[0]] * len(value) if many else arguments
      return tuple(
        coerce(h, v, f"{path}.{i}", given)
        for i, (h, v) in enumerate(zip(hints, value, strict=True))
      )
  raise TypeError


def describe(hint: Any) -> str:
  """Describes in words what an annotation accepts."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    return one_of(arguments)
  if origin in (Union, types.UnionType):
    return " or ".join(dict.fromkeys(describe(a) for a in arguments))
  if hint is type(None):
    return "None"
  if isinstance(hint, Choice) or dataclasses.is_dataclass(hint):
    return "a group of keys"
  if origin is tuple:
    inner = ["..." if a is Ellipsis else describe(a) for a in arguments]
    return f"a tuple ({', '.join(inner)})"
  return getattr(hint, "__name__", str(hint))


def _mapping(section: Any, path: str) -> dict:
  if not isinstance(section, Mapping | ConfigDict):
    raise ConfigError(
      f"config.{path} is {section!r}; it must be a group of keys."
    )
  return dict(section)
