"""The table of results: what each recipe should reach, and what runs reached.

`configs/results/` holds the cards of runs that were made, and `targets.json`:
the figures of papers and of other suites, with their sources.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from sslx.config import shipped

TARGETS = "targets.json"
_HEADER = """# Results

Each row is a recipe and a protocol. A target is the figure of the source for
this recipe. "not run" means that no run of this recipe has been made here; a
figure without a target is of a run for which nobody has published one. All are
accuracies in %. `python -m sslx.report results` writes this page from the cards
in `configs/results/`, which hold command, commit, hardware and seed.
"""


class Row(NamedTuple):
  """A recipe by a protocol.

  Attributes:
    recipe: its name.
    protocol: protocol and metric.
    target: the published figure in %, or None.
    source: where the target is from; "" without a target.
    reached: our figure in %, or None if it was not run.
    untrained: that of an untrained encoder, or None.
    run: the card's file name and hardware; "" if it was not run.
  """

  recipe: str
  protocol: str
  target: float | None
  source: str
  reached: float | None
  untrained: float | None
  run: str


def rows(folder: pathlib.Path | None = None) -> list[Row]:
  """Returns the rows of the table, recipes in the order of their names.

  Args:
    folder: the folder of cards; that of the package by default.
  """
  folder = folder or shipped.folder() / "results"
  targets = json.loads((folder / TARGETS).read_text())
  wanted = {(x["recipe"], x["protocol"]): x for x in targets}
  reached = {}
  for file in sorted(folder.glob("*.json")):
    if file.name != TARGETS:
      for protocol, figures in _figures(json.loads(file.read_text())):
        key = (figures["recipe"], protocol)
        reached[key] = {**figures, "run": f"{file.name}, {figures['run']}"}
  found = []
  for recipe, protocol in sorted({*wanted, *reached}):
    target = wanted.get((recipe, protocol), {})
    mine = reached.get((recipe, protocol), {})
    found.append(
      Row(
        recipe,
        protocol,
        target.get("target"),
        target.get("source", ""),
        mine.get("reached"),
        mine.get("untrained"),
        mine.get("run", ""),
      )
    )
  return found


def _figures(card: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields protocol and figures of a card: of the run, and evaluations."""
  common = {"recipe": card["recipe"], "run": card["hardware"]}
  percent = lambda x: None if x is None else 100 * x
  online = [name for name in card["after"] if name.startswith("knn_")]
  for name in online[:1]:
    yield (
      f"online {name}",
      common
      | {
        "reached": percent(card["after"][name]),
        "untrained": percent(card["before"].get(name)),
      },
    )
  for x in card["evaluations"]:
    # Splits that are not the usual ones stand after the name of the set.
    splits = x["data"].partition(" ")[2].strip("()")
    changed = "; ".join(filter(None, [", ".join(x["changed"]), splits]))
    changed = f" ({changed})" if changed else ""
    name = "top1" if "top1" in x["results"] else next(iter(x["results"]))
    yield (
      f"{x['protocol']} v{x['version']}{changed} {name}",
      common
      | {
        "reached": percent(x["results"][name]),
        "untrained": percent(x.get("before", {}).get(name)),
      },
    )


def page(found: list[Row]) -> str:
  """Returns the table as Markdown."""
  lines = [
    _HEADER,
    "| recipe | protocol | target | reached | untrained | run | source |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ]
  shown = lambda x, absent: absent if x is None else f"{x:.1f}"
  for row in found:
    cells = [
      row.recipe,
      row.protocol,
      shown(row.target, ""),
      shown(row.reached, "not run"),
      shown(row.untrained, ""),
      row.run,
      row.source,
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"
