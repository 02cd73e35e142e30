"""What is wrong with config files, beyond what stops them from loading."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

from sslx.config import names
from sslx.config.errors import ConfigError
from sslx.config.loading import typed

MAX_DEPTH = 3


def lint(
  file: pathlib.Path, overrides: Sequence[tuple[str, str]] = ()
) -> Iterator[str]:
  """Errors, and warnings that say so, of one config.

  It checks all that a run checks before it looks at data.

  A file beside the folder `_base_` is an entry point, which picks a recipe by
  argument; its name is free, unless it has the form of a recipe's.

  Args:
    file: of a config with all sections.
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
