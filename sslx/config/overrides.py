"""Flags that set keys of a config: `--config.data.views.1.count=4`."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from sslx.config.errors import ConfigError, unknown_key
from sslx.config.merge import checked, merge
from sslx.config.reference import Ref, resolve_at
from sslx.config.schema import coerce
from sslx.config.tree import DELETE, as_config, plain


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


def parse(text: str) -> Any:
  """The value that a text on the command line stands for.

  A Python literal, `dict(a=1)`, or a bare word, also within sequences; `true`,
  `false` and `null` as in JSON. Anything else is a string as it stands.
  """
  try:
    return _value(ast.parse(text.strip(), mode="eval").body)
  except (SyntaxError, ValueError):
    return text
  except (RecursionError, MemoryError):  # Python's own limits.
    raise ConfigError(
      f"{text[:60]}... is nested too deeply to be a value of a config."
    ) from None


def _value(node: ast.expr) -> Any:
  match node:
    case ast.Constant(value=None | bool() | int() | float() | str() as value):
      return value
    case ast.UnaryOp(ast.USub(), ast.Constant(value=int() | float() as value)):
      return -value
    case ast.List(elements) | ast.Tuple(elements):
      return tuple(map(_value, elements))
    case ast.Dict(keys, values) if None not in keys:
      return dict(zip(map(_value, keys), map(_value, values), strict=True))
    case ast.Call(ast.Name("dict"), [], keywords):
      return {keyword.arg: _value(keyword.value) for keyword in keywords}
    case ast.Name(name):
      return {"true": True, "false": False, "null": None}.get(name, name)
  raise ValueError


def override(config: ConfigDict, path: str, text: str) -> None:
  """Sets one key from the command line, in place.

  Args:
    config: what to change.
    path: as of `assign`.
    text: as of `parse`.

  Raises:
    ConfigError: see `assign`.
  """
  tree, _ = assign(plain(config), path, text)
  with config.unlocked(), config.ignore_type():
    for key, value in as_config(tree, final=True).items():
      config[key] = value


def assign(tree: dict, path: str, text: str) -> tuple[dict, str]:
  """The tree with one key set from the command line.

  A value takes the type of the one that it replaces, where that loses nothing;
  None and a value replace each other freely. A dict merges into a group, and
  replaces it with `_delete_=True`.

  Args:
    tree: of the config, references included.
    path: dotted keys; elements of sequences by number (`data.views.0.size` or
      `data.views[0].size`), from the end if negative. `+` before a key adds it
      (`data.+threads`); alone it adds an element at the end (`data.views.+`).
    text: see `parse`.

  Returns:
    The new tree, and the path in plain form.

  Raises:
    ConfigError: the key does not exist (or, with `+`, does), or holds a value
      of another type.
  """
  keys = re.sub(r"\[([-+]?\d*)\]", r".\1", path).split(".")
  value = parse(text)
  done: list[str] = []

  def new(old: Any) -> Any:
    where = ".".join(done)
    return checked(_like(tree, old, value, text, where), where)

  return plain(_assigned(tree, keys, new, done)), ".".join(done)


def _assigned(
  node: Any, keys: list[str], new: Callable[[Any], Any], done: list[str]
) -> Any:
  """A copy of the node, changed at `keys`; `done` gets them in plain form."""
  if not keys:
    return new(node)
  key, *rest = keys
  above = "".join(f"{k}." for k in done)
  if isinstance(node, Ref):
    raise ConfigError(
      f"config.{above}{key} is part of {node!r}. Set it there, or all of"
      f" config.{above[:-1]} here."
    )
  if isinstance(node, dict):
    word = key.removeprefix("+")
    if key == word and key not in node:
      hint = f" To add it, write --config.{above}+{key}=VALUE."
      raise ConfigError(unknown_key(above + key, node) + hint)
    if key != word and word in node:
      raise ConfigError(
        f"config.{above}{word} exists already; leave out the +."
      )
    done.append(word)
    old = node.get(word, {} if rest else None)
    return node | {word: _assigned(old, rest, new, done)}
  if isinstance(node, tuple):
    index = _index(node, key, above)
    done.append(str(index))
    old = node[index] if index < len(node) else {} if rest else None
    item = _assigned(old, rest, new, done)
    return (*node[:index], item, *node[index + 1 :])
  raise ConfigError(
    f"config.{above}{key}: {key!r} is not a key of the value {node!r}."
  )


def _index(node: tuple, key: str, above: str) -> int:
  if key == "+":
    return len(node)
  if re.fullmatch(r"-?\d+", key) and -len(node) <= int(key) < len(node):
    return int(key) % len(node)
  raise ConfigError(
    f"config.{above}{key}: there is no element {key!r}; the sequence has"
    f" {len(node)} elements. To add one, write --config.{above}+=VALUE."
  )


def _like(tree: dict, old: Any, value: Any, text: str, path: str) -> Any:
  """The value, as the type of the old one."""
  if isinstance(old, Ref):
    old = resolve_at(tree, old, path)
  if old is None or value is None:
    return value
  if isinstance(old, dict):
    return _merged(tree, old, value, path)
  if isinstance(old, str):
    # As it was typed, 1e3 or 007, unless that is in quotes.
    return value if isinstance(value, str) else text
  if isinstance(old, tuple) and isinstance(value, tuple):
    kinds = {type(item) for item in old}
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
      return tuple(
        _like(tree, old[0], item, str(item), f"{path}.{i}")
        for i, item in enumerate(value)
      )
    return value
  if not isinstance(old, tuple):
    with contextlib.suppress(ConfigError):
      return coerce(type(old), value, path)
  raise ConfigError(
    f"config.{path} is {value!r} ({type(value).__name__}); it must be"
    f" {type(old).__name__}, as the {old!r} that it replaces is."
  )


def _merged(tree: dict, old: dict, value: Any, path: str) -> dict:
  if not isinstance(value, dict):
    raise ConfigError(
      f"config.{path} is a group of keys ({', '.join(old)}), not"
      f" {value!r} ({type(value).__name__}). Set one of them, give a dict(...),"
      " or None to leave it out."
    )
  if DELETE in value:
    above, _, key = path.rpartition(".")
    return merge({key: old}, {key: value}, f"{above}.")[key]
  for key in value:
    if key not in old:
      raise ConfigError(unknown_key(f"{path}.{key}", old))
  return old | {
    key: _like(tree, old[key], item, str(item), f"{path}.{key}")
    for key, item in value.items()
  }
