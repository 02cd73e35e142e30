"""Tables, as text for the terminal or in the format of a file."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from etils import epath

from sslx import storage
from sslx.config import ConfigError


class Table(NamedTuple):
  """A table.

  Attributes:
    title: what it shows.
    head: names of the columns.
    rows: cells; None is an empty cell.
    notes: sentences below it.
  """

  title: str
  head: tuple[str, ...]
  rows: list[tuple[Any, ...]]
  notes: tuple[str, ...] = ()


def cell(value: Any) -> str:
  """Returns the text of a cell; a float has four digits."""
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:.4g}"
  return f"{value:,}" if type(value) is int else str(value)


def text(tables: Sequence[Table]) -> str:
  """Returns tables in columns, for a terminal."""
  parts = []
  for table in tables:
    cells = [table.head, *([cell(x) for x in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = _numeric(table)
    lines = [table.title] if len(tables) > 1 else []
    for row in cells:
      padded = (
        x.rjust(width) if is_right else x.ljust(width)
        for x, width, is_right in zip(row, widths, right, strict=True)
      )
      lines.append("  ".join(padded).rstrip())
    parts.append("\n".join([*lines, *table.notes]))
  return "\n\n".join(parts) + "\n"


def markdown(tables: Sequence[Table]) -> str:
  """Returns tables in GitHub's Markdown; the text in cells stays text."""
  parts = []
  for table in tables:
    line = lambda cells: f"| {' | '.join(map(_plain, cells))} |"
    marks = ("---:" if right else "---" for right in _numeric(table))
    lines = [f"## {_plain(table.title)}", "", line(table.head)]
    lines.append(f"| {' | '.join(marks)} |")
    lines += [line(map(cell, row)) for row in table.rows]
    lines += [f"\n{_plain(note)}" for note in table.notes]
    parts.append("\n".join(lines))
  return "\n\n".join(parts) + "\n"


def _plain(words: str) -> str:
  """Escapes what Markdown would read as markup."""
  words = html.escape(words, quote=False).replace("\\", "\\\\")
  for mark in "|*_`[]":
    words = words.replace(mark, f"\\{mark}")
  return " ".join(words.split())


def _numeric(table: Table) -> list[bool]:
  """Whether each column holds numbers only."""
  columns = zip(*table.rows, strict=True) if table.rows else [()] * 99
  is_number = lambda x: isinstance(x, int | float)
  return [
    any(map(is_number, column))
    and all(x is None or is_number(x) for x in column)
    for _, column in zip(table.head, columns, strict=False)
  ]


def as_csv(tables: Sequence[Table]) -> str:
  """Returns the first table as comma-separated values, in full precision."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(tables[0].head)
  writer.writerows(tables[0].rows)
  return out.getvalue()


def as_json(tables: Sequence[Table]) -> str:
  """Returns the rows of each table as JSON objects, by title."""
  found = {
    table.title: [dict(zip(table.head, row, strict=True)) for row in table.rows]
    for table in tables
  }
  return json.dumps(found, indent=2) + "\n"


Format = Callable[[Sequence[Table]], str]
FORMATS: dict[str, Format] = {
  ".md": markdown,
  ".csv": as_csv,
  ".json": as_json,
}


def check_suffix(out: str, accepted: Sequence[str]) -> epath.Path:
  """Returns the path of `--out`.

  Raises:
    ConfigError: its suffix is not among the accepted ones.
  """
  path = storage.path(out, "--out")
  if path.suffix not in accepted:
    raise ConfigError(f"--out={out}: it must end in {' or '.join(accepted)}.")
  return path
