"""Inspects configs without running them: `python -m sslx.config COMMAND`.

  print CONFIG [--config.a.b=v ...]   print the resolved config; --provenance
                                      adds the file or flag that set each value
  diff CONFIG CONFIG [...]            print the keys that differ
  lint [FILE ...] [...]               report errors in configs and their names
  tree [FILE ...]                     print each config and its base configs
  migrate FILE                        find the recipe nearest to an MMSelfSup
                                      config
  copy RECIPE [--to=configs]          copy a recipe of sslx, to edit it

CONFIG is a file. If the file takes an argument, it follows after a colon.
Without FILE, `lint` and `tree` take all configs below ./configs if that folder
holds `_base_`, else all configs that come with sslx.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from sslx import config as config_lib
from sslx.config import shipped
from sslx.config.files import Loaded
from sslx.config.tree import leaves, plain

FORMATS = {
  "yaml": config_lib.to_yaml,
  "json": config_lib.to_json,
  "python": config_lib.to_python,
}


def print_(spec: str, overrides: list[tuple[str, str]], style: str) -> None:
  """Prints a resolved config.

  Args:
    spec: config file, with an argument after a colon if it takes one.
    overrides: (dotted key, text of the value).
    style: a key of FORMATS, or "provenance".
  """
  from sslx.settings import typed  # Slow: it imports Flax.

  loaded = typed(spec, overrides)
  config = loaded.config()
  if style != "provenance":
    print(FORMATS[style](config), end="")
    return
  written = {path: repr(value) for path, value in leaves(loaded.tree)}
  for path, value in leaves(plain(config)):
    leaf = path
    while leaf not in written:  # Inside a group that a reference copied.
      leaf = leaf.rpartition(".")[0]
    text = "" if written[leaf] == repr(value) else f": {written[leaf]}"
    line = f"{path} = {value!r}"
    print(f"{line:<50}  # {loaded.origin(path)}{text}")


def diff(one: str, two: str, overrides: list[tuple[str, str]]) -> int:
  """Prints the keys that differ between two configs; returns 1 if any does.

  Overrides apply to both configs.
  """
  from sslx.settings import load  # Slow: it imports Flax.

  old, new = (
    json.loads(config_lib.to_json(load(spec, overrides))) for spec in (one, two)
  )
  changed = config_lib.differences(old, new)
  for key, (a, b) in changed.items():
    print(f"config.{key}: {a!r} -> {b!r}")
  return int(bool(changed))


def lint(
  recipes: Sequence[pathlib.Path], overrides: list[tuple[str, str]]
) -> int:
  """Prints errors and warnings; returns 1 if there is any error."""
  from sslx.recipes.lint import lint as check  # Slow: it imports Flax.

  errors = 0
  for file in recipes:
    for message in check(file, overrides):
      print(f"{file}: {message}")
      errors += not message.startswith("warning")
  print(f"{len(recipes)} files, {errors} errors")
  return int(bool(errors))


def tree(loaded: Loaded, indent: str = "") -> None:
  """Prints a config's file name and, indented below it, its base configs."""
  print(f"{indent}{loaded.file}")
  for base in loaded.bases:
    tree(base, indent + "  ")


def main(argv: list[str]) -> int:
  """Runs the command given in `argv`; returns the exit status."""
  overrides, rest = config_lib.split_overrides(argv)
  parser = argparse.ArgumentParser(
    prog="python -m sslx.config",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True)
  one = commands.add_parser("print")
  one.add_argument("config")
  style = one.add_mutually_exclusive_group()
  style.add_argument("--format", choices=FORMATS, default="yaml")
  style.add_argument("--provenance", action="store_true")
  two = commands.add_parser("diff")
  two.add_argument("config", nargs=2)
  for name in ("lint", "tree"):
    some = commands.add_parser(name)
    some.add_argument("file", nargs="*", type=pathlib.Path)
  foreign = commands.add_parser("migrate")
  foreign.add_argument("file", type=pathlib.Path)
  copied = commands.add_parser("copy")
  copied.add_argument("recipe")
  copied.add_argument("--to", type=pathlib.Path, default="configs")
  flags = parser.parse_args(rest)
  if overrides and flags.command not in ("print", "diff", "lint"):
    parser.error("--config.KEY=VALUE go with print, diff and lint")

  if flags.command == "print":
    print_(
      flags.config,
      overrides,
      "provenance" if flags.provenance else flags.format,
    )
  elif flags.command == "diff":
    return diff(*flags.config, overrides)
  elif flags.command == "migrate":
    from sslx.migrate import migrate  # Slow: it imports Flax.

    print(migrate(flags.file, shipped.recipes(shipped.folder() / "selfsup")))
  elif flags.command == "copy":
    file = shipped.copy(flags.recipe, flags.to)
    print(f"Edit it and use it: --config={file}")
  else:
    recipes = flags.file or _recipes()
    if flags.command == "lint":
      return lint(recipes, overrides)
    for file in recipes:
      tree(config_lib.read(str(file)))
  return 0


def _recipes(below: str = "") -> list[pathlib.Path]:
  """All recipes in ./configs, or, without that folder, those of sslx."""
  here = pathlib.Path("configs")
  folder = here if (here / "_base_").is_dir() else shipped.folder()
  return shipped.recipes(folder / below)


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv[1:]))
  except config_lib.ConfigError as error:
    sys.exit(f"error: {error}")
  except BrokenPipeError:  # The reader closed the pipe, as `| head` does.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
