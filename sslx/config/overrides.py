"""Command-line flags that set config keys: `--config.data.views.1.count=4`."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import types
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from sslx.config import schema, values
from sslx.config.errors import ConfigError, unknown_key
from sslx.config.merge import checked, merge
from sslx.config.reference import Ref, resolve_at
from sslx.config.tree import DELETE, as_config, has_group, plain


def split_overrides(
  argv: Iterable[str],
) -> tuple[list[tuple[str, str]], list[str]]:
  """Splits a command line into config overrides and other arguments.

  Returns:
    (dotted key, text of the value) for each `--config.a.b=value`, in order; and
    all other arguments.

  Raises:
    ConfigError: a `--config.KEY` argument has no `=`.
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
  """Parses the text of a value on the command line.

  It may be a Python literal, `dict(a=1)`, a bare word, or JSON's `true`,
  `false` and `null`; sequences and dicts may contain all of these. Any other
  text is returned unchanged, as a string.
  """
  try:
    # Python would drop everything after a # as a comment.
    lines = tokenize.generate_tokens(io.StringIO(text).readline)
    if any(token.type == tokenize.COMMENT for token in lines):
      return text
    return _value(ast.parse(text.strip(), mode="eval").body)
  except (SyntaxError, ValueError, tokenize.TokenError):
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
    config: the config to change.
    path: see `assign`.
    text: see `parse`.

  Raises:
    ConfigError: see `assign`.
  """
  tree, _ = assign(plain(config), path, text)
  with config.unlocked(), config.ignore_type():
    for key, value in as_config(tree, final=True).items():
      config[key] = value


def assign(
  tree: dict,
  path: str,
  text: str,
  hints: Mapping[str, Any] = types.MappingProxyType({}),
) -> tuple[dict, str]:
  """Returns the tree with one key set from the command line.

  The settings class of the key gives the value's type. If no class is known,
  the old value gives it, and None may replace any value and be replaced by any.
  A dict merges into a group; with `_delete_=True` it replaces the group.

  Args:
    tree: the config, with references unresolved.
    path: dotted keys. Elements of sequences go by number (`data.views.0.size`
      or `data.views[0].size`); negative numbers count from the end. `+` before
      a key that no class knows adds the key. `+` alone adds an element at the
      end (`data.views.+`).
    text: see `parse`.
    hints: annotation of each section.

  Returns:
    The new tree, and the path with dots only, without `+` and negative numbers.

  Raises:
    ConfigError: the key does not exist (or, with `+`, exists already), or the
      value has the wrong type.
  """
  words = re.sub(r"\[([-+]?\d*)\]", r".\1", path).split(".")
  flag = _Flag(tree, parse(text), text)
  done: list[str] = []
  tree = _assigned(tree, words, flag, _Sections(hints), (), done)
  return plain(tree), ".".join(done)


class _Flag(NamedTuple):
  """A flag: the tree that it changes, its parsed value, and its text."""

  tree: dict
  value: Any
  text: str


class _Sections(NamedTuple):
  """The annotation of a whole config: one annotation per section."""

  hints: Mapping[str, Any]


def _keys(
  hint: Any, node: dict, given: tuple[str, ...]
) -> dict[str, schema.Key] | None:
  if isinstance(hint, _Sections):
    return {key: schema.Key(x, None) for key, x in hint.hints.items()} or None
  return schema.keys(hint, node, given)


def _assigned(
  node: Any,
  words: list[str],
  flag: _Flag,
  hint: Any,
  given: tuple[str, ...],
  done: list[str],
) -> Any:
  """A copy of the node, changed at the path `words`.

  Args:
    node: a tree.
    words: keys that remain on the path below the node.
    flag: the flag.
    hint: annotation of the node.
    given: fields that do not come from the config.
    done: keys from the top to the node; the plain forms of `words` are added.
  """
  if not words:
    where = ".".join(done)
    return checked(_typed(flag, node, hint, given, where), where)
  word, *rest = words
  above = "".join(f"{k}." for k in done)
  if isinstance(node, Ref):
    raise ConfigError(
      f"config.{above}{word} is part of {node!r}. Set it there, or all of"
      f" config.{above[:-1]} here."
    )
  if isinstance(node, dict):
    known = _keys(hint, node, given)
    key = word.removeprefix("+")
    if word == key and key not in node and key not in (known or ()):
      message = unknown_key(above + key, node if known is None else known)
      if known is None:
        message += f" To add it, write --config.{above}+{key}=VALUE."
      raise ConfigError(message)
    if word != key and key in node:
      raise ConfigError(f"config.{above}{key} exists already; leave out the +.")
    done.append(key)
    old = node.get(key, {} if rest else None)
    inner = known[key].hint if known and key in known else Any
    new = _assigned(old, rest, flag, inner, schema.given_in(hint, given), done)
    if not rest and schema.chooser(hint) == key:
      return _chosen(node, key, new, hint, given, above)
    return node | {key: new}
  if isinstance(node, tuple):
    index = _index(node, word, above)
    done.append(str(index))
    old = node[index] if index < len(node) else {} if rest else None
    inner = schema.element(hint, index)
    item = _assigned(old, rest, flag, inner, given, done)
    return (*node[:index], item, *node[index + 1 :])
  raise ConfigError(
    f"config.{above}{word}: {word!r} is not a key of the value {node!r}."
  )


def _chosen(
  node: dict,
  key: str,
  name: Any,
  hint: Any,
  given: tuple[str, ...],
  above: str,
) -> dict:
  """The group after its `key` names another settings class.

  Default values of the old class are dropped, and those of the new class added.

  Raises:
    ConfigError: other values were set that the new class has no keys for.
  """
  old, new = node.get(key), node | {key: name}
  before = schema.keys(hint, node, given) or {}
  after = schema.keys(hint, new, given)
  if after is None or name == old:
    return new  # `build` reports an unknown name.
  own = schema.filled(hint, {key: old}, given)
  gone = [k for k in node if k in before and k not in after]
  left = [k for k in gone if k not in own or node[k] != own[k]]
  if left:
    group = above.removesuffix(".")
    raise ConfigError(
      f"config.{above}{key}={name} has no {', '.join(left)}, which are set for"
      f" {old!r}. Replace the whole group:"
      f' --config.{group}="dict(_delete_=True, {key}={name!r}, ...)"'
    )
  return schema.filled(
    hint, {k: v for k, v in new.items() if k not in gone}, given
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


def _typed(
  flag: _Flag, old: Any, hint: Any, given: tuple[str, ...], path: str
) -> Any:
  """Converts the flag's value to its annotation, or to the old value's type."""
  value = flag.value
  if isinstance(old, Ref):
    old = resolve_at(flag.tree, old, path)
  if hint is Any:
    hint = _of_value(old)
  known = schema.keys(hint, value, given) if isinstance(value, dict) else None
  if isinstance(value, dict) and (isinstance(old, dict) or known is not None):
    return _merged(flag, old, hint, given, path)
  if hint is Any:
    return value
  if isinstance(value, tuple) and has_group(value):
    return schema.filled(hint, value, given)
  try:
    return values.coerce(hint, value, path)
  except ConfigError:
    text = _as_text(hint, value, flag.text)
    if text is None:
      if isinstance(old, dict) and schema.keys(hint, old, given) is None:
        raise ConfigError(
          f"config.{path} is a group of keys ({', '.join(old)}), not"
          f" {value!r} ({type(value).__name__}). Set one of them, give a"
          " dict(...), or None to leave it out."
        ) from None
      raise
    return text


def _of_value(old: Any) -> Any:
  """An annotation made from the old value, for a key without settings class."""
  if old is None:
    return Any
  if isinstance(old, tuple):
    kinds = {type(item) for item in old}
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
      return tuple[kinds.pop(), ...] | None
  return type(old) | None


def _as_text(hint: Any, value: Any, text: str) -> Any:
  """The text as typed, such as 1e3 or 007, if the annotation allows a str."""
  options = schema.options(hint)
  if str in options:
    return text
  if tuple[str, ...] in options and isinstance(value, tuple):
    return tuple(map(str, value))
  return None


def _merged(
  flag: _Flag, old: Any, hint: Any, given: tuple[str, ...], path: str
) -> dict:
  """The old group with the flag's dict merged into it."""
  value, above = flag.value, path.rpartition(".")[0]
  old = old if isinstance(old, dict) else {}
  if DELETE in value:
    key = path[len(above) :].lstrip(".")
    value = merge({key: old}, {key: value}, f"{above}.")[key]
    old = {}
  known = schema.keys(hint, old | value, given)
  inner = schema.given_in(hint, given)
  result = dict(old)
  for key, item in value.items():
    if known is not None and key not in known:
      raise ConfigError(unknown_key(f"{path}.{key}", known))
    if known is None and old and key not in old:
      raise ConfigError(unknown_key(f"{path}.{key}", old))
    result[key] = _typed(
      flag._replace(value=item, text=str(item)),
      old.get(key),
      known[key].hint if known is not None else Any,
      inner,
      f"{path}.{key}",
    )
  return schema.filled(hint, result, given)
