"""References: values computed from other keys of the final config.

`ref("data.batch_size") * 2` is twice the batch size of the final config, even
if an inheriting file or a flag changes the batch size. In contrast,
`base.data.batch_size` copies the base's value, which later changes do not
affect.
"""

from __future__ import annotations

import operator
from typing import Any, NoReturn

from sslx.config.errors import ConfigError, unknown_key

_OPERATORS = {
  "+": operator.add,
  "-": operator.sub,
  "*": operator.mul,
  "/": operator.truediv,
  "//": operator.floordiv,
  "%": operator.mod,
  "**": operator.pow,
}


def ref(path: str) -> Ref:
  """A reference to another key, resolved once all files and flags are read.

  Args:
    path: dotted keys from the top; elements of sequences by number.

  Returns:
    A placeholder that supports arithmetic (+ - * / // % **, round). It may
    stand wherever a config holds a value, also inside sequences.
  """
  return Ref(path)


class Ref:
  """An expression over keys of the config; `ref` makes it."""

  def __init__(self, path: str | None = None, *expression: Any):
    """Takes a dotted path, or an operator with its left and right operand."""
    self.path = path
    self.expression = expression

  def __repr__(self) -> str:
    """The expression as written in a config file."""
    if self.path is not None:
      return f"ref({self.path!r})"
    name, left, right = self.expression
    if name == "round":
      return f"round({left!r}{'' if right is None else f', {right!r}'})"
    return f"({left!r} {name} {right!r})"

  def __neg__(self) -> Ref:
    """The negated value."""
    return Ref(None, "*", -1, self)

  def __round__(self, digits: int | None = None) -> Ref:
    """The rounded value."""
    return Ref(None, "round", self, digits)

  def _refuse(self, *_: Any) -> NoReturn:
    raise ConfigError(
      f"{self!r} has no value yet: references are looked up when all files and"
      " flags have been read. Read the base's value (base.data.batch_size) for"
      " a decision in Python."
    )

  # Operations that would silently use the placeholder as a value.
  __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
  __iter__ = __len__ = __int__ = __float__ = __index__ = __format__ = _refuse
  __hash__ = None


def _add_operator(method: str, name: str) -> None:
  setattr(Ref, f"__{method}__", lambda a, b: Ref(None, name, a, b))
  setattr(Ref, f"__r{method}__", lambda a, b: Ref(None, name, b, a))


for _method, _name in zip(
  ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"),
  _OPERATORS,
  strict=True,
):
  _add_operator(_method, _name)


def resolve(tree: dict) -> dict:
  """The tree with every reference replaced by its value.

  Raises:
    ConfigError: a reference names no key, refers to itself, or its arithmetic
      fails.
  """
  return _resolved(tree, tree, "", ())


def resolve_at(tree: dict, value: Any, path: str) -> Any:
  """Resolves the references in one value of the tree, located at `path`."""
  return _resolved(tree, value, path, ())


def _resolved(root: dict, value: Any, path: str, via: tuple[str, ...]) -> Any:
  if isinstance(value, dict):
    return {
      key: _resolved(root, item, f"{path}.{key}" if path else key, via)
      for key, item in value.items()
    }
  if isinstance(value, tuple):
    return tuple(
      _resolved(root, item, f"{path}.{i}", via) for i, item in enumerate(value)
    )
  if not isinstance(value, Ref):
    return value
  if value.path is not None:
    return _looked_up(root, value, path, via)
  name, *operands = value.expression
  left, right = (_resolved(root, x, path, via) for x in operands)
  try:
    return (round if name == "round" else _OPERATORS[name])(left, right)
  except (TypeError, ArithmeticError) as error:
    raise ConfigError(
      f"config.{path} is {value!r}, here {left!r} {name} {right!r}: {error}."
    ) from None


def _looked_up(root: dict, value: Ref, path: str, via: tuple[str, ...]) -> Any:
  if value.path in via:
    chain = " -> ".join((*via, value.path))
    raise ConfigError(f"config.{path} is {value!r}, a circle: {chain}.")
  node, done = root, ()
  for key in value.path.split("."):
    if isinstance(node, Ref):
      node = _resolved(root, node, ".".join(done), (*via, value.path))
    if isinstance(node, tuple) and key.lstrip("-").isdigit():
      found = -len(node) <= int(key) < len(node)
      key = int(key)
    else:
      found = isinstance(node, dict) and key in node
    if not found:
      keys = node if isinstance(node, dict) else ()
      missing = unknown_key(".".join((*done, str(key))), keys)
      raise ConfigError(f"config.{path} is {value!r}, but {missing}")
    node, done = node[key], (*done, str(key))
  return _resolved(root, node, value.path, (*via, value.path))
