"""Access to a foreign config, with a log of which values were read."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from sslx.config.errors import ConfigError
from sslx.config.values import coerce

_REQUIRED = object()


@dataclasses.dataclass
class Log:
  """What became of each value, by its dotted path.

  Attributes:
    read: paths of values that are in the description of the experiment, or that
      agree with what sslx always does.
    idle: paths of keys that have no effect in sslx, for any value.
    notes: values that sslx cannot express, each with the reason.
  """

  read: set[str] = dataclasses.field(default_factory=set)
  idle: set[str] = dataclasses.field(default_factory=set)
  notes: dict[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)


class Node:
  """A group of a foreign config."""

  def __init__(self, values: dict[str, Any], path: str, log: Log):
    """Makes a group of which nothing has been read.

    Args:
      values: content of the group.
      path: dotted path of the group.
      log: shared log of all groups.
    """
    self._values, self._path, self._log = values, path, log

  def __iter__(self) -> Iterator[str]:
    """Iterates over the keys."""
    return iter(self._values)

  def at(self, key: str) -> str:
    """The dotted path of a key."""
    return f"{self._path}.{key}" if self._path else key

  def take(self, key: str, hint: Any, default: Any = _REQUIRED) -> Any:
    """Returns a value and logs it as read.

    Args:
      key: key in this group.
      hint: annotation of the value.
      default: MMSelfSup's default.

    Raises:
      ConfigError: the value has another type, or is missing without default.
    """
    if key in self._values:
      self._log.read.add(self.at(key))
      try:
        return coerce(hint, self._values[key], self.at(key))
      except ConfigError as error:
        raise ConfigError(str(error).removeprefix("config.")) from None
    if default is _REQUIRED:
      raise ConfigError(f"{self.at(key)} is missing.")
    return default

  def is_group(self, key: str) -> bool:
    """Whether there is a group at a key."""
    return isinstance(self._values.get(key), dict)

  def kind(self, default: str = "") -> str:
    """The class name in `type`, without the scope before the dot."""
    return self.take("type", str, default).rpartition(".")[2]

  def is_a(self, *kinds: str, default: str = "") -> None:
    """Notes `type` unless it is one of these classes."""
    if self.kind(default) not in kinds:
      self.note("type", f"sslx has {' and '.join(kinds)} here")

  def fixed(self, key: str, *known: Any, why: str = "") -> None:
    """Notes a value that differs from the one that sslx always uses.

    Args:
      key: key in this group.
      *known: MMSelfSup's default, then sslx's value if it is another one.
      why: what sslx does, in words.
    """
    default, does = known[0], known[-1]
    value = self._values.get(key, default)
    self._log.read.add(self.at(key))
    if not equal(value, does):
      self.note(key, why or f"always {does!r} in sslx", value)

  def idle(self, *keys: str) -> None:
    """Logs keys that have no effect in sslx, for any value."""
    self._log.idle |= {self.at(key) for key in keys if key in self._values}

  def idle_all(self) -> None:
    """Logs the whole group as having no effect in sslx."""
    self._log.idle.add(self._path)

  def note(self, key: str, why: str, value: Any = None) -> None:
    """Notes a key that sslx cannot express, with the reason.

    Args:
      key: key in this group.
      why: the reason.
      value: the value to show if the key is missing.
    """
    self._log.notes[self.at(key)] = (self._values.get(key, value), why)

  def note_all(self, why: str) -> None:
    """Notes that sslx cannot express the whole group, with the reason."""
    self._log.notes[self._path] = (self._values, why)

  def group(self, key: str) -> Node:
    """The group at a key; an empty group if there is none."""
    return self._node(self._values.get(key), self.at(key))

  def groups(self, key: str) -> list[Node]:
    """The groups in a sequence; a single group counts as a sequence of one."""
    value = self._values.get(key)
    if not value:
      self._log.read.add(self.at(key))
      return []
    if not isinstance(value, tuple):
      return [self._node(value, self.at(key))]
    return [self._node(x, f"{self.at(key)}.{i}") for i, x in enumerate(value)]

  def rows(self, key: str) -> list[list[Node]]:
    """The groups in a sequence of sequences."""
    rows = self._values.get(key, ())
    if not isinstance(rows, tuple):
      raise ConfigError(f"{self.at(key)} is {rows!r}; it must be a sequence.")
    numbered = {str(i): row for i, row in enumerate(rows)}
    inner = Node(numbered, self.at(key), self._log)
    return [inner.groups(i) for i in numbered]

  def _node(self, value: Any, path: str) -> Node:
    if not isinstance(value, dict | None):
      raise ConfigError(f"{path} is {value!r}; it must be a group of keys.")
    if not value:
      self._log.read.add(path)
    return Node(value or {}, path, self._log)


def left(values: dict[str, Any], log: Log) -> Iterator[tuple[str, Any]]:
  """Yields path and value of everything that the log does not have.

  A group of which nothing was read is yielded whole.
  """
  done = log.read | log.idle | log.notes.keys()
  above = {path[: dot.start()] for path in done for dot in _DOTS(path)}

  def below(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
      here = f"{path}{key}"
      if here in done:
        continue
      if here in above and isinstance(value, dict | tuple):
        yield from below(value, f"{here}.")
      else:
        yield here, value

  return below(values, "")


_DOTS = re.compile(r"\.").finditer


def equal(a: Any, b: Any) -> bool:
  """Whether two values are equal; numbers up to rounding."""
  if isinstance(a, tuple) and isinstance(b, tuple):
    return len(a) == len(b) and all(map(equal, a, b))
  if isinstance(a, dict) and isinstance(b, dict):
    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
  number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
  if number(a) and number(b):
    return math.isclose(a, b, rel_tol=1e-6)
  return type(a) is type(b) and a == b


def rounded(number: float) -> float:
  """Rounds to 9 digits, to remove rounding errors of a division."""
  return float(f"{number:.9g}")
