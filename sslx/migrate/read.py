"""Reads config files of MMSelfSup as data, without executing anything in them.

It reads assignments of literals, `dict(...)`, names assigned before, `_base_`
(the files must exist), `{{_base_.x}}`, `_base_.x`, indices and arithmetic. It
reports everything else as not read.
"""

from __future__ import annotations

import ast
import dataclasses
import operator
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from sslx.config.errors import ConfigError

_SUMS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.FloorDiv: operator.floordiv,
}
# Largest value, in letters and leaves: repeated names could double a value on
# every line.
_MAX_SIZE = 100_000
_NOT_DATA = (ValueError, TypeError, LookupError, ArithmeticError)


@dataclasses.dataclass
class Foreign:
  """A file merged with all files that it inherits.

  Attributes:
    file: name of the file.
    values: the values that MMEngine's Config would hold; sequences are tuples.
    unread: place and text of code that is not data.
  """

  file: str
  values: dict[str, Any] = dataclasses.field(default_factory=dict)
  unread: list[str] = dataclasses.field(default_factory=list)


def read(file: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> Foreign:
  """Reads a file and its bases.

  Args:
    file: config file of MMSelfSup.
    above: files that inherit it.

  Raises:
    ConfigError: the file or a base does not exist, is not Python, or inherits
      itself.
  """
  file = file.resolve()
  if file in above:
    raise ConfigError(f"{file} inherits itself.")
  try:
    text = file.read_text(encoding="utf-8")
    statements = ast.parse(_without_braces(text, file)).body
    bases = _base_names(statements)
  except (OSError, SyntaxError, ValueError, MemoryError) as error:
    raise ConfigError(f"{file} cannot be read: {error}.") from None
  own = Foreign(file.name)
  base: dict[str, Any] = {}
  for name in bases:
    path = file.parent / name
    if not path.is_file():
      raise ConfigError(
        f"{file} inherits {name!r}, and there is no such file. Run migrate"
        " where MMSelfSup's configs are, or on what its Config.dump writes."
      )
    inherited = read(path, (*above, file))
    own.unread += inherited.unread
    base = merge(base, inherited.values)
  for statement in statements:
    try:
      _run(statement, own, base)
    except _NOT_DATA:
      _unread(own, statement)
  own.values = merge(base, own.values)
  return own


def merge(base: dict, changes: dict) -> dict:
  """Merges as MMEngine does.

  Dicts merge key by key; other values are replaced. A dict with `_delete_`
  replaces the inherited dict.
  """
  result = dict(base)
  for key, value in changes.items():
    if isinstance(value, dict):
      there = base.get(key)
      inherits = isinstance(there, dict) and not value.get("_delete_", False)
      kept = {k: v for k, v in value.items() if k != "_delete_"}
      value = merge(there if inherits else {}, kept)
    result[key] = value
  return result


def _without_braces(text: str, file: pathlib.Path) -> str:
  """Replaces `{{_base_.x}}` by Python, and other templates by strings."""

  def python(match: re.Match) -> str:
    inner = match[1].strip()
    if inner.startswith("_base_."):
      return inner
    known = {
      "fileBasenameNoExtension": file.stem,
      "fileBasename": file.name,
      "fileDirname": str(file.parent),
      "fileExtname": file.suffix,
    }
    if inner.startswith("$"):
      return repr(inner.partition(":")[2])
    return repr(known.get(inner, inner))

  return re.sub(r"""['"]?\{\{([^{}]*)\}\}['"]?""", python, text)


def _base_names(statements: list[ast.stmt]) -> list[str]:
  for statement in statements:
    match statement:
      case ast.Assign([ast.Name("_base_")], value):
        names = ast.literal_eval(value)
        return [names] if isinstance(names, str) else list(map(str, names))
  return []


def _run(statement: ast.stmt, own: Foreign, base: dict) -> None:
  """Evaluates an assignment.

  Raises:
    ValueError: the statement is not data. Other errors of _NOT_DATA mean the
      same.
  """
  match statement:
    case ast.Expr(ast.Constant()) | ast.Assign([ast.Name("_base_")]):
      pass
    case ast.Assign([target], value):
      evaluated = _value(value, own, base)
      if _size(evaluated) > _MAX_SIZE:
        raise ValueError
      path = _path(target)
      if path[0] == "_base_":  # Changes the values that this file inherits.
        path = path[1:]
      change = evaluated
      for key in reversed(path):
        change = {key: change}
      own.values = (
        merge(own.values, change) if path[1:] else (own.values | change)
      )
    case _:
      raise ValueError


def _size(value: Any) -> int:
  """The number of letters and leaves in a value."""
  if isinstance(value, str):
    return len(value)
  inner = value.values() if isinstance(value, dict) else value
  return 1 + (sum(map(_size, inner)) if isinstance(inner, Iterable) else 0)


def _path(target: ast.expr) -> list[str]:
  match target:
    case ast.Name(name):
      return [name]
    case ast.Attribute(inner, name):
      return [*_path(inner), name]
    case ast.Subscript(inner, ast.Constant(str() as key)):
      return [*_path(inner), key]
  raise ValueError


def _value(node: ast.expr, own: Foreign, base: dict) -> Any:
  again = lambda inner: _value(inner, own, base)
  match node:
    case ast.Constant(value):
      return value
    case ast.List(elements) | ast.Tuple(elements):
      return tuple(map(again, elements))
    case ast.Dict(keys, values):
      keys = [key and again(key) for key in keys]
      return _dict(zip(keys, values, strict=True), own, base)
    case ast.Call(ast.Name("dict"), [], keywords):
      return _dict(((k.arg, k.value) for k in keywords), own, base)
    case ast.Name("_base_"):
      return base
    case ast.Name(name):
      return own.values[name] if name in own.values else base[name]
    case ast.Attribute(inner, name):
      return again(inner)[name]
    case ast.Subscript(inner, index):
      return again(inner)[again(index)]
    case ast.UnaryOp(ast.USub(), operand):
      return -again(operand)
    case ast.BinOp(left, operation, right):
      left, right = again(left), again(right)
      if isinstance(operation, ast.Mult) and not all(
        isinstance(x, int | float) for x in (left, right)
      ):
        raise ValueError  # A repeated sequence could fill the memory.
      return _SUMS[type(operation)](left, right)
  raise ValueError


def _dict(
  items: Iterable[tuple[Any, ast.expr]], own: Foreign, base: dict
) -> dict:
  """Evaluates all entries that are data; key None stands for `**`."""
  result = {}
  for key, node in items:
    try:
      value = _value(node, own, base)
      result |= value if key is None else {key: value}
    except _NOT_DATA:
      _unread(own, node, f"{key or '**'} = ")
  return result


def _unread(own: Foreign, node: ast.stmt | ast.expr, prefix: str = "") -> None:
  first = ast.unparse(node).splitlines()[0]
  own.unread.append(f"{own.file}, line {node.lineno}: {prefix}{first}")
