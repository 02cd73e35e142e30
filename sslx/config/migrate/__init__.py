"""From a config of MMSelfSup to the nearest recipe of sslx.

The foreign file is read as data (`read`), and described as an experiment of
sslx, with all that it does not have switched off (`methods`, `networks`,
`views`, `schedule`, `parameters`). The recipe that is most like it is made the
same by flags (`nearest`). Every value of the foreign file is in the
description, is known to change nothing, or is told.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from sslx.config.errors import ConfigError
from sslx.config.loading import typed
from sslx.config.migrate import effects, foreign, read
from sslx.config.migrate.experiment import describe
from sslx.config.migrate.nearest import nearest
from sslx.config.reference import resolve
from sslx.config.schema import build


@dataclasses.dataclass(frozen=True)
class Migration:
  """What to run instead of an MMSelfSup config.

  Attributes:
    recipe: the nearest one.
    overrides: (key, text of the value) that make it say the same.
    notes: MMSelfSup's key, value, and why the command does not say it.
    idle: MMSelfSup's keys that change nothing in the result.
    unread: what is not data in its files.
  """

  recipe: pathlib.Path
  overrides: list[tuple[str, str]]
  notes: list[tuple[str, Any, str]]
  idle: list[str]
  unread: list[str]

  def __str__(self) -> str:
    """A report, with the command to run."""
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
    file: in MMSelfSup's format; it is read as data and never executed.
    recipes: of sslx, to choose from.

  Raises:
    ConfigError: the file cannot be read, or asks for what sslx cannot do.
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
  """The same, of values that are read and recipes that are resolved.

  Args:
    values: of the foreign config; sequences are tuples.
    stem: of its file's name.
    recipes: resolved content of each.
  """
  log = foreign.Log()
  wanted = describe(foreign.Node(values, "", log), stem)
  recipe, changes = nearest(wanted, recipes)
  idle = list(log.idle)
  parts = {key: x for key, x in values.items() if key in effects.PARTS}
  for path, value in foreign.left(parts, log):
    if effects.idle(path):
      idle.append(path)
    elif value is not None:  # None is nothing, as if it were not there.
      log.notes[path] = (value, effects.reason(path))
  return Migration(
    recipe,
    [(key, _text(value)) for key, value in changes.items()],
    [(key, *note) for key, note in sorted(log.notes.items())],
    sorted(idle),
    [],
  )


def _text(value: Any) -> str:
  """A value on the command line; in it no quote that a shell needs."""
  return value if isinstance(value, str) else repr(value).replace("'", '"')


def check(found: Migration) -> None:
  """Refuses a command that would not run.

  Raises:
    ConfigError: a value that sslx does not accept.
  """
  from sslx import optim, settings  # They import this package.

  config = typed(str(found.recipe), found.overrides).config()
  schedule = build(settings.Schedule, config.schedule, "schedule")
  optim.learning_rate(
    schedule.optimizer,
    schedule.lr,
    global_batch=config.data.batch_size,
    steps_per_epoch=1,
    epochs=schedule.epochs,
  )
