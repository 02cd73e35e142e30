"""Checks config files and their names."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from sslx.config.errors import ConfigError
from sslx.recipes import names
from sslx.settings import typed

MAX_DEPTH = 3


def lint(
  file: pathlib.Path, overrides: Sequence[tuple[str, str]] = ()
) -> Iterator[str]:
  """Yields the errors of one config, and its warnings ("warning: ...").

  It makes all the checks that a run makes before it reads data. It also checks
  the file's name. A file beside the folder `_base_` is an entry point, which
  picks a recipe by its argument. Its name is checked only if it has the form of
  a recipe name.

  Args:
    file: a config with all sections.
    overrides: (dotted key, text of the value).
  """
  try:
    loaded = typed(str(file), overrides)
    config = loaded.config()
  except ConfigError as error:
    yield str(error)
    return
  if names.is_full(file.stem) or not (file.parent / "_base_").is_dir():
    yield from names.check(file.stem, config)
  if loaded.depth > MAX_DEPTH:
    chain, base = [loaded.file], loaded
    while base.bases:
      base = max(base.bases, key=lambda b: b.depth)
      chain.append(base.file)
    yield (
      f"warning: inherits {loaded.depth} deep, more than {MAX_DEPTH}:"
      f" {' -> '.join(chain)}. Inherit from one nearer to the parts."
    )
