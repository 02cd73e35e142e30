"""Translates a config of MMSelfSup to a recipe of sslx and overrides.

`read` reads the MMSelfSup file as data. `experiment` describes it as config
sections of sslx, with every feature that it lacks switched off; `methods`,
`networks`, `views`, `schedule` and `parameters` do the parts. `nearest` finds
the most similar recipe and the overrides that make it equal. Every value of the
MMSelfSup file is in the description, or is known to have no effect, or is
reported.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from sslx import schedules
from sslx.config.errors import ConfigError
from sslx.config.reference import resolve
from sslx.config.values import build
from sslx.migrate import effects, foreign, read
from sslx.migrate.experiment import describe
from sslx.migrate.nearest import nearest
from sslx.settings import Schedule, typed


@dataclasses.dataclass(frozen=True)
class Migration:
  """What to run instead of an MMSelfSup config.

  Attributes:
    recipe: the nearest recipe.
    overrides: (key, text of the value) that make the recipe equivalent.
    notes: (MMSelfSup's key, value, reason) for values that are not translated.
    idle: MMSelfSup's keys that do not change the result.
    unread: place and text of code in its files that is not data.
  """

  recipe: pathlib.Path
  overrides: list[tuple[str, str]]
  notes: list[tuple[str, Any, str]]
  idle: list[str]
  unread: list[str]

  def __str__(self) -> str:
    """The report, with the command to run."""
    command = [
      "python -m sslx.main",
      f"--config={shlex.quote(str(self.recipe))}",
      "--workdir=WORKDIR",
      *(shlex.quote(f"--config.{k}={v}") for k, v in self.overrides),
    ]
    lines = [f"nearest recipe: {self.recipe}", "", " \\\n    ".join(command)]
    if self.notes:
      lines += ["", "not in the command:"]
      lines += [
        f"  {key} = {value!r}  ({why})" for key, value, why in self.notes
      ]
    if self.unread:
      lines += ["", "not read:", *(f"  {text}" for text in self.unread)]
    if self.idle:
      lines += ["", "without effect on the result:"]
      lines += textwrap.wrap(
        ", ".join(self.idle), 78, initial_indent="  ", subsequent_indent="  "
      )
    return "\n".join(lines)


def migrate(file: pathlib.Path, recipes: Sequence[pathlib.Path]) -> Migration:
  """Finds the recipe that differs least from an MMSelfSup config.

  Args:
    file: config of MMSelfSup; it is read as data and never executed.
    recipes: recipes of sslx to choose from.

  Raises:
    ConfigError: the file cannot be read, or asks for something that sslx cannot
      do.
  """
  try:
    there = read.read(file)
    found = _translated(there, file, recipes)
  except RecursionError:
    raise ConfigError(f"{file} is nested too deeply.") from None
  return dataclasses.replace(found, unread=there.unread)


def _translated(
  there: read.Foreign, file: pathlib.Path, recipes: Sequence[pathlib.Path]
) -> Migration:
  trees = {recipe: resolve(typed(str(recipe)).tree) for recipe in recipes}
  try:
    found = translate(there.values, file.stem, trees)
    check(found)
  except ConfigError as error:
    unread = f" Not read was {there.unread[0]}." if there.unread else ""
    raise ConfigError(f"{file}: {error}{unread}") from None
  return found


def translate(
  values: dict[str, Any],
  stem: str,
  recipes: Mapping[pathlib.Path, dict[str, Any]],
) -> Migration:
  """Migrates values that are already read, given resolved recipes.

  Args:
    values: the foreign config; sequences are tuples.
    stem: name of its file, without suffix.
    recipes: resolved content of each recipe.
  """
  log = foreign.Log()
  wanted = describe(foreign.Node(values, "", log), stem)
  recipe, changes = nearest(wanted, recipes)
  idle = list(log.idle)
  parts = {key: x for key, x in values.items() if key in effects.PARTS}
  for path, value in foreign.left(parts, log):
    if effects.idle(path):
      idle.append(path)
    elif value is not None:  # None means the same as a missing key.
      log.notes[path] = (value, effects.reason(path))
  return Migration(
    recipe,
    [(key, _text(value)) for key, value in changes.items()],
    [(key, *note) for key, note in sorted(log.notes.items())],
    sorted(idle),
    [],
  )


def _text(value: Any) -> str:
  """A value as text for the command line, without single quotes.

  `shlex.quote` would have to escape single quotes.
  """
  return value if isinstance(value, str) else repr(value).replace("'", '"')


def check(found: Migration) -> None:
  """Checks that the command would run.

  Raises:
    ConfigError: sslx does not accept one of the values.
  """
  config = typed(str(found.recipe), found.overrides).config()
  schedule = build(Schedule, config.schedule, "schedule")
  batch_size = config.data.batch_size
  plan = schedule.plan(batch_size, images=batch_size)
  schedules.check(schedule.lr, plan, "schedule.lr")
