"""Reads config files and resolves inheritance between them.

A config file is Python with a function `get_config()` that returns a
ConfigDict, or JSON or YAML with the same content. `get_config` may take
arguments. They follow the file's name, after a colon.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import yaml
from ml_collections import ConfigDict

from sslx.config import shipped
from sslx.config.arguments import call, split_spec
from sslx.config.errors import ConfigError, nearest
from sslx.config.identity import YamlLoader
from sslx.config.merge import merge
from sslx.config.reference import resolve
from sslx.config.tree import as_config, leaves, plain


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A config, with the origin of each value.

  Attributes:
    file: name of its file, relative to the working directory if below it.
    tree: its values, with references not yet resolved.
    origins: the file or flag that set each leaf, by the leaf's dotted path.
    bases: the configs that it inherits from, in order.
  """

  file: str
  tree: dict
  origins: dict[str, str]
  bases: tuple[Loaded, ...] = ()

  @property
  def depth(self) -> int:
    """Number of inheritance steps to the furthest base."""
    return max((1 + base.depth for base in self.bases), default=0)

  def config(self) -> ConfigDict:
    """The values with references resolved, as a locked, typed ConfigDict."""
    return as_config(resolve(self.tree), final=True)

  def origin(self, path: str) -> str:
    """The file or flag that set the value at a path.

    The path may be a leaf, a group (its first leaf counts), or lie inside a
    leaf. If nothing is found, it is this config's file.
    """
    while path:
      for leaf, origin in self.origins.items():
        if leaf == path or leaf.startswith(f"{path}."):
          return origin
      path = path.rpartition(".")[0]
    return self.file

  def blame(self, message: str) -> str:
    """A sentence that says which file or flag set the value in an error.

    Args:
      message: an error message that names `config.KEY`.

    Returns:
      "" if the message names no key, or the value is a default.
    """
    match = re.search(r"config\.([\w.]*\w)", message)
    if match is None:
      return ""
    origin = self.origin(match[1])
    return "" if origin == "its default" else f" It is set by {origin}."


class _Frame:
  """The state of a config file that is being read."""

  def __init__(self, file: pathlib.Path, argument: str):
    """Starts with nothing inherited."""
    self.key = (file, argument)
    self.file, self.folder = _shown(file), file.parent
    self.bases: list[Loaded] = []
    # For every leaf that `inherit` returned: its repr, and the file that set
    # it.
    self.known: dict[str, tuple[str, str]] = {}

  def loaded(self, value: Any) -> Loaded:
    """The config that this file returned, with the origin of each value.

    A value that equals the one that `inherit` returned counts as inherited. The
    file itself set all others.
    """
    with self.named():
      tree = merge({}, plain(value))
    origins = {}
    for path, leaf in leaves(tree):
      text, origin = self.known.get(path, ("", self.file))
      origins[path] = origin if text == repr(leaf) else self.file
    return Loaded(self.file, tree, origins, tuple(self.bases))

  @contextlib.contextmanager
  def named(self) -> Iterator[None]:
    """Puts the file's name before the message of a ConfigError."""
    try:
      yield
    except ConfigError as error:
      raise ConfigError(f"{self.file}: {error}") from None


_reading: list[_Frame] = []


def inherit(*bases: str | ConfigDict, **changes: Any) -> ConfigDict:
  """Merges base configs, in order, and then the changes of the caller.

  Groups merge key by key. Scalars and sequences replace the inherited value. So
  does a group with `_delete_=True`.

  Args:
    *bases: config files, each with an argument after a colon if it takes one.
      A path is relative to the config file that is being read, or to the
      working directory if none is; `sslx:selfsup/NAME.py` is a file that comes
      with the package. A base may also be a config that an earlier `inherit`
      returned, which lets the changes use its values.
    **changes: one mapping per section.

  Returns:
    A config for `get_config` to return, unchanged or changed in Python.

  Raises:
    ConfigError: a base does not exist or inherits itself, two bases set the
      same key, or `merge` fails.
  """
  frame = _reading[-1] if _reading else _Frame(pathlib.Path("Python"), "")
  parts: list[Loaded] = []
  for base in bases:
    if isinstance(base, ConfigDict):
      part = frame.loaded(base)
    else:
      file, argument = split_spec(base)
      part = read_file(shipped.find(file, frame.folder), argument)
      frame.bases.append(part)
    for other in parts:
      _check_siblings(other, part, other.tree, part.tree)
    parts.append(part)
  tree, origins = {}, {}
  with frame.named():
    for part in parts:
      tree = merge(tree, part.tree)
      origins |= part.origins
    changes = plain(changes)
    tree = merge(tree, changes)
  own = dict(leaves(changes))
  for path, leaf in leaves(tree):
    origin = frame.file if path in own else origins.get(path, frame.file)
    frame.known[path] = (repr(leaf), origin)
  return as_config(tree, final=False)


def _check_siblings(
  one: Loaded, two: Loaded, x: dict, y: dict, above: str = ""
) -> None:
  """Raises if two bases set the same key.

  Both may inherit the key, with the same value, from the same file.
  """
  for key in filter(y.__contains__, x):
    path = f"{above}{key}"
    if isinstance(x[key], dict) and isinstance(y[key], dict):
      _check_siblings(one, two, x[key], y[key], f"{path}.")
    elif one.origin(path) != two.origin(path) or repr(x[key]) != repr(y[key]):
      first, second = one.origin(path), two.origin(path)
      raise ConfigError(
        f"config.{path} is set by two bases: {first} ({x[key]!r}) and {second}"
        f" ({y[key]!r}). Take it out of one, or let one inherit the other."
      )


def read_file(file: pathlib.Path, argument: str) -> Loaded:
  """Reads a config file and the files that it inherits from.

  Raises:
    ConfigError: the file does not exist, cannot be read, raises an error, or
      returns no config; or its bases cannot be merged.
  """
  file = file.resolve()
  if not file.is_file():
    raise ConfigError(
      f"config file {_shown(file)!r} does not exist."
      f"{nearest(file.name, [p.name for p in file.parent.glob('*.*')])}"
    )
  frame = _Frame(file, argument)
  chain = [other.key for other in _reading]
  if frame.key in chain:
    circle = [*chain[chain.index(frame.key) :], frame.key]
    files = " inherits ".join(_shown(file) for file, _ in circle)
    raise ConfigError(f"a config inherits itself: {files}.")
  _reading.append(frame)
  try:
    with _blamed(file):
      value = _content(file, argument)
    if not isinstance(value, dict | ConfigDict):
      raise ConfigError(
        f"{frame.file} gives {value!r}; it must be a ConfigDict or dict."
      )
    return frame.loaded(value)
  finally:
    _reading.pop()


def _content(file: pathlib.Path, argument: str) -> Any:
  if file.suffix != ".py":
    if argument:
      raise ConfigError(
        f"{_shown(file)} takes no argument, but was given {argument!r}."
      )
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
      return json.loads(text)
    return yaml.load(text, Loader=YamlLoader)
  spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
  module = importlib.util.module_from_spec(spec)
  # Execute the module each time and keep it out of sys.modules, because two
  # configs may have the same file name.
  keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
  try:
    spec.loader.exec_module(module)
  finally:
    sys.dont_write_bytecode = keep
  if not hasattr(module, "get_config"):
    raise ConfigError(
      f"{_shown(file)}: there is no function get_config() in it."
    )
  return call(module.get_config, argument, _shown(file))


@contextlib.contextmanager
def _blamed(file: pathlib.Path) -> Iterator[None]:
  """Turns any exception in a config file into a ConfigError with its line."""
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == str(file)
    ]
    line = f", line {lines[-1]}" if lines else ""
    raise ConfigError(
      f"{_shown(file)}{line}: {type(error).__name__}: {error}"
    ) from error


def _shown(file: pathlib.Path) -> str:
  here = pathlib.Path.cwd()
  return str(file.relative_to(here) if file.is_relative_to(here) else file)
