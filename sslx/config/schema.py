"""Settings classes: frozen dataclasses whose annotations define config keys.

The classes are the only definition of a key. `build` makes their instances from
groups of a config, `filled` adds their defaults to a group, and `keys` lists
the keys that a flag may set.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar, Union

from ml_collections import ConfigDict

from sslx.config.errors import ConfigError, nearest, unknown_key
from sslx.config.reference import Ref

T = TypeVar("T")
_MISSING = dataclasses.MISSING
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Key(NamedTuple):
  """A key of a settings class: its annotation, and its default or MISSING."""

  hint: Any
  default: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """An annotation: a group whose `key` names one of several settings classes.

  Attributes:
    key: the key that chooses, such as "name".
    options: class by name; modules of `custom_imports` may add to it.
    common: class of the keys that the group has for every choice, or None.
    given: fields of the classes that do not come from the config.
    default: what a group without the key chooses; None if it must have it.
  """

  key: str
  options: Mapping[str, type]
  common: type | None = None
  given: tuple[str, ...] = ()
  default: str | None = None

  def of(self, section: Mapping, path: str) -> type:
    """The class that the group names.

    Raises:
      ConfigError: it names no class, or an unknown one.
    """
    name = section.get(self.key, self.default)
    if isinstance(name, str) and name in self.options:
      return self.options[name]
    told = f"is {name!r}" if self.key in section else "is missing"
    raise ConfigError(
      f"config.{path}.{self.key} {told}; it must be {_one_of(self.options)}."
      f"{nearest(str(name), self.options)}"
    )


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
  fields = _fields(cls, tuple(given))
  values = {}
  for key, value in section.items():
    if key not in fields:
      known = (*fields, *chosen)
      raise ConfigError(unknown_key(f"{path}.{key}", known))
    values[key] = coerce(fields[key].hint, value, f"{path}.{key}", given)
  for key, field in fields.items():
    if field.default is _MISSING and key not in values:
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


def keys(
  hint: Any, section: Mapping, given: tuple[str, ...] = ()
) -> dict[str, Key] | None:
  """The keys that a group may have; None if no settings class is known.

  Args:
    hint: the annotation of the group.
    section: the group; its content may choose the class.
    given: fields that do not come from the config.
  """
  if isinstance(hint, Choice):
    name = section.get(hint.key, hint.default)
    option = hint.options.get(name) if isinstance(name, str) else None
    if option is None:
      return None
    common = _fields(hint.common, given) if hint.common else {}
    own = _fields(option, given_in(hint, given))
    default = _MISSING if hint.default is None else hint.default
    return {hint.key: Key(str, default), **common, **own}
  group = _group(hint)
  return _fields(group, given) if group else None


def chooser(hint: Any) -> str | None:
  """The key that chooses the settings class of a group, or None."""
  return hint.key if isinstance(hint, Choice) else None


def given_in(hint: Any, given: tuple[str, ...]) -> tuple[str, ...]:
  """The `given` fields for the groups inside a group."""
  return given + hint.given if isinstance(hint, Choice) else given


def element(hint: Any, index: int) -> Any:
  """The annotation of one element of a sequence; Any if it is unknown."""
  for option in options(hint):
    arguments = typing.get_args(option)
    if typing.get_origin(option) is tuple and arguments:
      if arguments[-1] is Ellipsis:
        return arguments[0]
      return arguments[index] if index < len(arguments) else Any
  return Any


def filled(hint: Any, value: Any, given: tuple[str, ...] = ()) -> Any:
  """The value, with defaults for all keys that it leaves out.

  Existing values are not checked; `build` does that.

  Args:
    hint: annotation of the value.
    value: a tree.
    given: fields that do not come from the config.
  """
  if isinstance(value, tuple):
    return tuple(
      filled(element(hint, i), item, given) for i, item in enumerate(value)
    )
  if not isinstance(value, Mapping) or isinstance(value, Ref):
    return value
  known = keys(hint, value, given)
  if known is None:
    return value
  inner = given_in(hint, given)
  result = {
    key: filled(known[key].hint, item, inner) if key in known else item
    for key, item in value.items()
  }
  for key, field in known.items():
    if key not in result and field.default is not _MISSING:
      result[key] = _plain(field.default, inner)
  return result


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
  group = _group(hint)
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
    return _one_of(arguments)
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


@functools.cache
def _fields(cls: type, given: tuple[str, ...]) -> dict[str, Key]:
  """The fields that come from a config, in the order of the class.

  Raises:
    ConfigError: the class is no dataclass, so it defines no keys.
  """
  if not dataclasses.is_dataclass(cls):
    raise ConfigError(
      f"{cls.__module__}.{cls.__qualname__} is not a dataclass: it defines no"
      " config keys. Decorate it with @dataclasses.dataclass(frozen=True)."
    )
  hints = typing.get_type_hints(cls)
  linen_own = ("parent", "name") if hasattr(cls, "apply") else ()
  found = {}
  for field in dataclasses.fields(cls):
    if field.init and field.name not in (*linen_own, *given):
      default = field.default
      if field.default_factory is not _MISSING:
        default = field.default_factory()
      found[field.name] = Key(hints[field.name], default)
  return found


def _plain(value: Any, given: tuple[str, ...]) -> Any:
  """The config tree from which `build` would make this instance."""
  if dataclasses.is_dataclass(value):
    fields = _fields(type(value), given)
    return {key: _plain(getattr(value, key), given) for key in fields}
  if isinstance(value, tuple):
    return tuple(_plain(item, given) for item in value)
  return value


def options(hint: Any) -> tuple[Any, ...]:
  """The members of a union; any other annotation is its own single option."""
  union = typing.get_origin(hint) in (Union, types.UnionType)
  return typing.get_args(hint) if union else (hint,)


def _group(hint: Any) -> type | None:
  """The settings class that an annotation allows, if it allows one."""
  for option in options(hint):
    if dataclasses.is_dataclass(option) and not isinstance(option, Choice):
      return option
  return None


def _mapping(section: Any, path: str) -> dict:
  if not isinstance(section, Mapping | ConfigDict):
    raise ConfigError(
      f"config.{path} is {section!r}; it must be a group of keys."
    )
  return dict(section)


def _one_of(values: Any) -> str:
  return "one of " + ", ".join(map(repr, values))
