"""Settings classes: frozen dataclasses whose annotations define config keys.

The classes are the only definition of a key. `keys` lists the keys that a flag
may set, and `filled` adds their defaults to a group. `values` makes instances.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple, Union

from sslx.config.errors import ConfigError, nearest
from sslx.config.reference import Ref

MISSING = dataclasses.MISSING


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
      f"config.{path}.{self.key} {told}; it must be {one_of(self.options)}."
      f"{nearest(str(name), self.options)}"
    )


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
    common = fields_of(hint.common, given) if hint.common else {}
    own = fields_of(option, given_in(hint, given))
    default = MISSING if hint.default is None else hint.default
    return {hint.key: Key(str, default), **common, **own}
  group = group_of(hint)
  return fields_of(group, given) if group else None


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
    if key not in result and field.default is not MISSING:
      result[key] = _plain(field.default, inner)
  return result


@functools.cache
def fields_of(cls: type, given: tuple[str, ...]) -> dict[str, Key]:
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
      if field.default_factory is not MISSING:
        default = field.default_factory()
      found[field.name] = Key(hints[field.name], default)
  return found


def _plain(value: Any, given: tuple[str, ...]) -> Any:
  """The config tree from which `build` would make this instance."""
  if dataclasses.is_dataclass(value):
    fields = fields_of(type(value), given)
    return {key: _plain(getattr(value, key), given) for key in fields}
  if isinstance(value, tuple):
    return tuple(_plain(item, given) for item in value)
  return value


def options(hint: Any) -> tuple[Any, ...]:
  """The members of a union; any other annotation is its own single option."""
  union = typing.get_origin(hint) in (Union, types.UnionType)
  return typing.get_args(hint) if union else (hint,)


def group_of(hint: Any) -> type | None:
  """The settings class that an annotation allows, if it allows one."""
  for option in options(hint):
    if dataclasses.is_dataclass(option) and not isinstance(option, Choice):
      return option
  return None


def one_of(values: Any) -> str:
  return "one of " + ", ".join(map(repr, values))
