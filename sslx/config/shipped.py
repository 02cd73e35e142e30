"""The recipes that come with the package: `sslx:selfsup/NAME.py`.

In a checkout they are in the folder `configs` beside the package. In an
installed package they are in `configs` inside it.
"""

from __future__ import annotations

import pathlib
import re

from sslx.config.errors import ConfigError, nearest

PREFIX = "sslx:"
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def folder() -> pathlib.Path:
  """The folder of shipped recipes.

  The path is relative to the working directory if the folder is below it.
  """
  checkout, here = _PACKAGE.parent / "configs", pathlib.Path.cwd()
  found = checkout if (checkout / "_base_").is_dir() else _PACKAGE / "configs"
  return found.relative_to(here) if found.is_relative_to(here) else found


def recipes(configs: pathlib.Path) -> list[pathlib.Path]:
  """The config files below a folder, without the parts in `_base_`."""
  return sorted(
    file for file in configs.rglob("*.py") if "_base_" not in file.parts
  )


def find(file: str, near: pathlib.Path) -> pathlib.Path:
  """The path of a config file.

  Args:
    file: a path; or `sslx:` and a path below the shipped folder; or
      `configs/...`, which means the shipped file if no such file exists.
    near: the folder that a path is relative to.
  """
  if file.startswith(PREFIX):
    return folder() / file.removeprefix(PREFIX)
  path = near / file
  first, *rest = pathlib.PurePath(file).parts or ("",)
  if first == "configs" and not path.exists():
    shipped = folder().joinpath(*rest)
    return shipped if shipped.is_file() else path
  return path


def copy(name: str, into: pathlib.Path) -> pathlib.Path:
  """Copies a shipped recipe for editing; the copy inherits shipped files.

  Args:
    name: file name, with or without its folder and suffix.
    into: target folder; created if missing.

  Returns:
    The new file.

  Raises:
    ConfigError: there is no such recipe, or the target file exists.
  """
  stem = pathlib.PurePath(name.removeprefix(PREFIX)).stem
  known = {path.stem: path for path in recipes(folder())}
  if stem not in known:
    raise ConfigError(
      f"there is no recipe {stem!r}.{nearest(stem, known)} To see all:"
      " python -m sslx.config lint"
    )
  source, target = known[stem], into / f"{stem}.py"
  if target.exists():
    raise ConfigError(f"{target} exists; delete it, or give another --to.")

  def portable(match: re.Match) -> str:
    """Replaces a relative path by one that works from any folder."""
    path = (source.parent / match[2]).resolve()
    if not path.is_file():
      return match[0]
    below = path.relative_to(folder().resolve()).as_posix()
    return f"{match[1]}{PREFIX}{below}{match[3]}{match[1]}"

  text = source.read_text()
  text = re.sub(r"""(["'])([^"'\n]+\.py)(|:[^"'\n]*)\1""", portable, text)
  into.mkdir(parents=True, exist_ok=True)
  target.write_text(text)
  return target
