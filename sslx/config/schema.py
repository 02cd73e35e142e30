"""Settings: frozen dataclasses whose annotations say what a config may hold.

The classes are the only truth of what a key is: `build` makes their instances
of a config's groups, `filled` adds the keys that a group leaves to its class,
and `keys` says what a flag may set.
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
  """What a settings class says of a key: annotation, and default or MISSING."""

  hint: Any
  default: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """An annotation: a group whose `key` names one of several settings classes.

  Attributes:
    key: such as "name".
    options: class by name; modules of `custom_imports` may add to it.
    common: class of the keys that the group has whatever is chosen, or None.
    given: fields of the classes in it that do not come from the config.
  """

  key: str
  options: Mapping[str, type]
  common: type | None = None
  given: tuple[str, ...] = ()

  def of(self, section: Mapping, path: str) -> type:
    """The class that the group names.

    Raises:
      ConfigError: it names none, or one that there is not.
    """
    name = section.get(self.key)
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
    cls: a dataclass, whose annotations say what each key may hold, or a Choice
      of several. Of a union of dataclasses, the one is built whose
      `kind: Literal[...]` the group has.
    section: mapping of key to value, as in the config file.
    path: the section's dotted place in the config, for error messages.
    **given: fields that do not come from the config. Each class in this section
      takes those that it has.

  Raises:
    ConfigError: an unknown or missing key, a value of another type, or a value
      that the class itself refuses (a ValueError of its `__post_init__`).
  """
  section = _mapping(section, path)
  if isinstance(cls, Choice):
    key, cls = cls.key, cls.of(section, path)
    del section[key]
  fields = _fields(cls, tuple(given))
  values = {}
  for key, value in section.items():
    if key not in fields:
      raise ConfigError(unknown_key(f"{path}.{key}", fields))
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
    # Most begin with the name of a field, or of one of a group in it.
    named = re.match(r"\w+", str(error))
    dot = "." if named and named[0] in names else ": "
    raise ConfigError(f"config.{path}{dot}{error}") from None


def require(settings: Any, key: str, ok: bool, accepted: str) -> None:
  """Raises the ValueError of a settings class whose field is not `ok`."""
  if not ok:
    value = getattr(settings, key)
    raise ValueError(f"{key} is {value!r}; it must be {accepted}.")


def keys(
  hint: Any, section: Mapping, given: tuple[str, ...] = ()
) -> dict[str, Key] | None:
  """The keys that a group may have; None if no settings class is known.

  Args:
    hint: the annotation of the group.
    section: the group, which may be what chooses the class.
    given: fields that do not come from the config.
  """
  if isinstance(hint, Choice):
    name = section.get(hint.key)
    option = hint.options.get(name) if isinstance(name, str) else None
    if option is None:
      return None
    common = _fields(hint.common, given) if hint.common else {}
    own = _fields(option, given_in(hint, given))
    return {hint.key: Key(str, _MISSING), **common, **own}
  groups = _groups(hint)
  if len(groups) > 1:
    kind = section.get("kind", _default_kind(groups))
    groups = [cls for cls in groups if kind in _kinds(cls)]
  return _fields(groups[0], given) if groups else None


def chooser(hint: Any) -> str | None:
  """The key that chooses among the settings classes of a group, if any."""
  if isinstance(hint, Choice):
    return hint.key
  return "kind" if len(_groups(hint)) > 1 else None


def given_in(hint: Any, given: tuple[str, ...]) -> tuple[str, ...]:
  """`given` of the groups inside of this one."""
  return given + hint.given if isinstance(hint, Choice) else given


def element(hint: Any, index: int) -> Any:
  """The annotation of an element of a sequence; Any if it is not known."""
  for option in options(hint):
    arguments = typing.get_args(option)
    if typing.get_origin(option) is tuple and arguments:
      if arguments[-1] is Ellipsis:
        return arguments[0]
      return arguments[index] if index < len(arguments) else Any
  return Any


def filled(hint: Any, value: Any, given: tuple[str, ...] = ()) -> Any:
  """The value with every key that its settings classes have.

  What it holds stays as it is, right or wrong: `build` tells.

  Args:
    hint: its annotation.
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
  """The value as the annotated type, where that loses nothing.

  Args:
    hint: an annotation: a scalar type, None, Literal, tuple, dataclass, Choice,
      Any, or a union of these.
    value: of a config.
    path: its dotted place in the config, for the message.
    given: see `build`.

  Raises:
    ConfigError: it is of another type.
  """
  if hint is Any:
    return value
  if isinstance(hint, Choice):
    return build(hint, value, path, **given)
  groups = _groups(hint)
  if groups and isinstance(value, Mapping | ConfigDict):
    # A group of keys has its own, more precise message.
    return build(_of_kind(groups, value, path), value, path, **given)
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
  """`coerce` to one option of a union.

  Raises:
    TypeError: it is not that.
    ConfigError: an element of it is not what it must be.
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
  """What an annotation accepts, in words."""
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
  """Those that come from a config, in the order of the class."""
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
  """An instance of a settings class as the tree that it is built from."""
  if dataclasses.is_dataclass(value):
    fields = _fields(type(value), given)
    return {key: _plain(getattr(value, key), given) for key in fields}
  if isinstance(value, tuple):
    return tuple(_plain(item, given) for item in value)
  return value


def options(hint: Any) -> tuple[Any, ...]:
  """What a union allows; anything else is its own only option."""
  union = typing.get_origin(hint) in (Union, types.UnionType)
  return typing.get_args(hint) if union else (hint,)


def _groups(hint: Any) -> list[type]:
  """The settings classes among what an annotation allows."""
  return [
    option
    for option in options(hint)
    if dataclasses.is_dataclass(option) and not isinstance(option, Choice)
  ]


def _of_kind(classes: list[type], section: Mapping, path: str) -> type:
  """The class whose `kind` the section names, or whose default it leaves."""
  if len(classes) == 1:
    return classes[0]
  default = _default_kind(classes)
  options = {name: cls for cls in classes for name in _kinds(cls)}
  section = {"kind": default} | dict(section) if default else dict(section)
  return Choice("kind", options).of(section, path)


def _default_kind(classes: list[type]) -> str | None:
  return next((c.kind for c in classes if hasattr(c, "kind")), None)


def _kinds(cls: type) -> tuple[str, ...]:
  return typing.get_args(typing.get_type_hints(cls)["kind"])


def _mapping(section: Any, path: str) -> dict:
  if not isinstance(section, Mapping | ConfigDict):
    raise ConfigError(
      f"config.{path} is {section!r}; it must be a group of keys."
    )
  return dict(section)


def _one_of(values: Any) -> str:
  return "one of " + ", ".join(map(repr, values))
