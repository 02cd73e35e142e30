"""Config files: how they are read, and how they inherit from each other.

A config file is Python with a function `get_config()` that returns a
ConfigDict, or JSON or YAML with the same content. `get_config` may take
arguments, which follow the file's name and a colon.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from ml_collections import ConfigDict

from sslx.config import shipped
from sslx.config.arguments import call, split_spec
from sslx.config.errors import ConfigError, nearest, unknown_key
from sslx.config.identity import YamlLoader
from sslx.config.merge import merge
from sslx.config.overrides import assign
from sslx.config.reference import resolve, resolve_at
from sslx.config.schema import filled
from sslx.config.tree import as_config, leaves, plain

SECTIONS = ("model", "data", "schedule", "runtime")


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A config and how it came about.

  Attributes:
    file: its name, relative to the working directory if it is below that.
    tree: its values, with references not yet looked up.
    origins: dotted path of each leaf to the file or flag that set it.
    bases: what it inherits from, in order.
  """

  file: str
  tree: dict
  origins: dict[str, str]
  bases: tuple[Loaded, ...] = ()

  @property
  def depth(self) -> int:
    """Steps of inheritance down to a file that inherits nothing."""
    return max((1 + base.depth for base in self.bases), default=0)

  def config(self) -> ConfigDict:
    """The values, references looked up; locked and typed."""
    return as_config(resolve(self.tree), final=True)

  def origin(self, path: str) -> str:
    """What set the value at a path: the leaf there, above, or first below."""
    while path:
      for leaf, origin in self.origins.items():
        if leaf == path or leaf.startswith(f"{path}."):
          return origin
      path = path.rpartition(".")[0]
    return self.file

  def blame(self, message: str) -> str:
    """What set the value that an error is about, as a sentence."""
    match = re.search(r"config\.([\w.]*\w)", message)
    if match is None:
      return ""
    origin = self.origin(match[1])
    return "" if origin == "its default" else f" It is set by {origin}."


class _Frame:
  """A file that is being read."""

  def __init__(self, file: pathlib.Path, argument: str):
    """Starts with nothing inherited."""
    self.key = (file, argument)
    self.file = _shown(file)
    self.bases: list[Loaded] = []
    # Of every leaf that `inherit` has returned: its text, and what set it.
    self.known: dict[str, tuple[str, str]] = {}

  def loaded(self, value: Any) -> Loaded:
    """A config made by this file, some of whose values it may have inherited.

    Those are the ones that are still what `inherit` returned.
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
    """Puts the file's name before what is wrong in it."""
    try:
      yield
    except ConfigError as error:
      raise ConfigError(f"{self.file}: {error}") from None


_reading: list[_Frame] = []


def load(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
  """Loads a config to be run.

  Args:
    spec: `path.py`, or `path.py:argument`. `sslx:` before the path, or a path
      `configs/...` that does not exist, is of what comes with the package.
    overrides: (dotted key, text of the value), as `split_overrides` gives them;
      the later one wins.

  Returns:
    All four sections with every key that their settings classes have,
    references looked up; locked, and every value typed.

  Raises:
    ConfigError: a file that does not exist, cannot be read, or does not return
      the four sections; what it inherits does not fit; see `assign` for the
      overrides; an import that failed; or a value that its settings class
      refuses.
  """
  return typed(spec, overrides).config()


def typed(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> Loaded:
  """The same, with the origin of every value.

  What `custom_imports` names is imported: methods and more from outside sslx.
  """
  from sslx import settings  # It imports this package.

  whole, overrides = _whole(spec), list(overrides)
  imports = [flag for flag in overrides if _is_import(flag[0])]
  tree = _changed(whole, imports, settings.SECTIONS).tree
  key = "custom_imports"
  custom_imports(
    resolve_at(tree, tree["runtime"].get(key, ()), f"runtime.{key}")
  )
  # Now the settings classes from outside are known, too.
  loaded = _changed(whole, overrides, settings.SECTIONS)
  try:
    settings.check(resolve(loaded.tree))
  except ConfigError as error:
    raise ConfigError(f"{error}{loaded.blame(str(error))}") from error
  return loaded


def _is_import(path: str) -> bool:
  return re.fullmatch(r"runtime\.\+?custom_imports.*", path) is not None


def read(
  spec: str,
  overrides: Iterable[tuple[str, str]] = (),
  sections: Mapping[str, Any] = types.MappingProxyType({}),
) -> Loaded:
  """Reads a config without importing or checking anything.

  Args:
    spec: as of `load`.
    overrides: as of `load`.
    sections: annotation of each section; what they leave to their settings
      classes is filled in.
  """
  return _changed(_whole(spec), overrides, sections)


def _whole(spec: str) -> Loaded:
  """A config as its files say, of all four sections and no other."""
  file, argument = split_spec(spec)
  loaded = _read(shipped.find(file, pathlib.Path()), argument)
  for key in loaded.tree:
    if key not in SECTIONS:
      raise ConfigError(unknown_key(key, SECTIONS))
  for key in SECTIONS:
    if key not in loaded.tree:
      raise ConfigError(f"{spec}: the config has no section {key!r}.")
  return loaded


def _changed(
  loaded: Loaded,
  overrides: Iterable[tuple[str, str]],
  sections: Mapping[str, Any],
) -> Loaded:
  """The config, filled in and then changed by flags."""
  loaded = _filled(loaded, sections)
  for path, text in overrides:
    tree, where = assign(loaded.tree, path, text, sections)
    origins = {
      leaf: f"--config.{path}={text}"
      if f"{leaf}.".startswith(f"{where}.") or where.startswith(f"{leaf}.")
      else loaded.origin(leaf)
      for leaf, _ in leaves(tree)
    }
    loaded = dataclasses.replace(loaded, tree=tree, origins=origins)
  return loaded


def _filled(loaded: Loaded, sections: Mapping[str, Any]) -> Loaded:
  """With all keys that the settings classes have."""
  tree = {
    key: filled(sections.get(key, Any), value)
    for key, value in loaded.tree.items()
  }
  own = dict(leaves(loaded.tree))
  origins = {
    path: loaded.origin(path) if path in own else "its default"
    for path, _ in leaves(tree)
  }
  return dataclasses.replace(loaded, tree=tree, origins=origins)


def custom_imports(modules: Any) -> None:
  """Imports methods and more from outside sslx.

  Args:
    modules: `runtime.custom_imports`, their names.

  Raises:
    ConfigError: they are not names, or an import failed.
  """
  listed = isinstance(modules, Sequence) and not isinstance(modules, str)
  if not listed or not all(isinstance(name, str) for name in modules):
    example = (modules if isinstance(modules, str) else "my_methods",)
    raise ConfigError(
      f"config.runtime.custom_imports is {modules!r}; it must be a tuple"
      f" of names of modules, such as {example!r}."
    )
  for name in modules:
    try:
      importlib.import_module(name)
    except Exception as error:  # Whatever a user's module raises.
      raise ConfigError(
        f"config.runtime.custom_imports has {name!r}, which cannot be imported:"
        f" {type(error).__name__}: {error}. Is its folder in PYTHONPATH?"
      ) from error


def inherit(*bases: str | ConfigDict, **changes: Any) -> ConfigDict:
  """Merges base configs, in order, and then the changes of the caller.

  Groups merge key by key; scalars and sequences replace what they override; a
  group with `_delete_=True` replaces too.

  Args:
    *bases: config files, relative to the file that calls `inherit`, or
      `sslx:selfsup/NAME.py` for one that comes with the package, with an
      argument after a colon if they take one; or a config that an earlier
      `inherit` returned, to read values of it for the changes.
    **changes: one mapping per section.

  Returns:
    A config to return from `get_config`, as it is or changed in Python.

  Raises:
    ConfigError: a base that does not exist, or inherits itself; two bases that
      set the same key; or see `merge`.
  """
  caller = pathlib.Path(sys._getframe(1).f_code.co_filename)
  frame = _reading[-1] if _reading else _Frame(caller, "")
  parts: list[Loaded] = []
  for base in bases:
    if isinstance(base, ConfigDict):
      part = frame.loaded(base)
    else:
      file, argument = split_spec(base)
      part = _read(shipped.find(file, caller.parent), argument)
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
  """Refuses a key that both set, unless both inherit it from one file."""
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


def _read(file: pathlib.Path, argument: str) -> Loaded:
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
  # Executed afresh each time, and left out of sys.modules: two configs may
  # well have the same file name.
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
  """Turns whatever goes wrong in a config file into one clear error."""
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
