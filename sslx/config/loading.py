"""Reads a config: its file, what it leaves out, and the flags."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sslx.config import shipped
from sslx.config.arguments import split_spec
from sslx.config.errors import ConfigError, unknown_key
from sslx.config.files import Loaded, read_file
from sslx.config.overrides import assign
from sslx.config.reference import resolve, resolve_at
from sslx.config.schema import filled
from sslx.config.tree import leaves

SECTIONS = ("model", "data", "schedule", "runtime")


def typed(
  spec: str,
  overrides: Iterable[tuple[str, str]],
  sections: Mapping[str, Any],
  check: Callable[[Mapping[str, Any]], None],
) -> Loaded:
  """Reads a config, after importing what it names, and checks its values.

  It imports the modules named by `runtime.custom_imports`, which may register
  methods and other classes from outside sslx.

  Args:
    spec: see `read`.
    overrides: see `read`.
    sections: annotation of each section.
    check: called with the sections, references resolved; it may raise.

  Raises:
    ConfigError: see `read`; or a custom import failed, or `check` refused a
      value. The message names the file or flag that set the value.
  """
  whole, overrides = _whole(spec), list(overrides)
  imports = [flag for flag in overrides if _is_import(flag[0])]
  tree = _changed(whole, imports, sections).tree
  key = "custom_imports"
  custom_imports(
    resolve_at(tree, tree["runtime"].get(key, ()), f"runtime.{key}")
  )
  # The custom imports have registered their settings classes.
  loaded = _changed(whole, overrides, sections)
  try:
    check(resolve(loaded.tree))
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
    spec: `path.py`, or `path.py:argument`. A path that begins with `sslx:`, or
      a path `configs/...` that does not exist, is a file of the package.
    overrides: (dotted key, text of the value), as `split_overrides` gives them.
      The last value of a key wins.
    sections: annotation of each section. Keys that the config leaves out are
      filled in from these settings classes.

  Raises:
    ConfigError: a file does not exist, cannot be read, or does not return the
      four sections; the bases cannot be merged; or an override is wrong, see
      `assign`.
  """
  return _changed(_whole(spec), overrides, sections)


def _whole(spec: str) -> Loaded:
  """Reads a config's files; it must have exactly the four sections."""
  file, argument = split_spec(spec)
  loaded = read_file(shipped.find(file, pathlib.Path()), argument)
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
  """Fills in the config, and then applies the flags."""
  loaded = _filled(loaded, sections)
  for path, text in overrides:
    tree, where = assign(loaded.tree, path, text, sections)
    shown = text if text.isprintable() else repr(text)  # An error is one line.
    origins = {
      leaf: f"--config.{path}={shown}"
      if f"{leaf}.".startswith(f"{where}.") or where.startswith(f"{leaf}.")
      else loaded.origin(leaf)
      for leaf, _ in leaves(tree)
    }
    loaded = dataclasses.replace(loaded, tree=tree, origins=origins)
  return loaded


def _filled(loaded: Loaded, sections: Mapping[str, Any]) -> Loaded:
  """Adds all keys that the settings classes have defaults for."""
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
  """Imports modules that register methods and other classes.

  Args:
    modules: names of the modules, from `runtime.custom_imports`.

  Raises:
    ConfigError: `modules` is not a sequence of names, or an import failed.
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
    except Exception as error:  # A user's module may raise anything.
      raise ConfigError(
        f"config.runtime.custom_imports has {name!r}, which cannot be imported:"
        f" {type(error).__name__}: {error}. Is its folder in PYTHONPATH?"
      ) from error
