"""Several runs side by side: their results, and where their configs differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sslx import config as config_lib
from sslx.report.tables import Table
from sslx.report.workdirs import Workdir, differing


def tables(runs: Sequence[Workdir]) -> list[Table]:
  """Returns a table of runs and, of several runs, the keys that differ."""
  of_runs = [_facts(run) for run in runs]
  head = dict.fromkeys(key for facts in of_runs for key in facts)
  rows = [tuple(facts.get(key) for key in head) for facts in of_runs]
  # A column without any value is left out.
  full = [
    i for i in range(len(head)) if any(row[i] is not None for row in rows)
  ]
  keep = lambda row: tuple(row[i] for i in full)
  found = [Table("Runs", keep(tuple(head)), [keep(row) for row in rows])]
  if len(runs) > 1:
    found.append(differences(runs))
  return found


def differences(runs: Sequence[Workdir]) -> Table:
  """Returns the keys of the configs that differ, with the value of each run."""
  rows = [
    (f"config.{key}", *map(written, values))
    for key, values in differing(runs).items()
  ]
  notes = () if rows else ("The configs are the same.",)
  names = (run.name for run in runs)
  return Table("Config keys that differ", ("key", *names), rows, notes)


def written(value: Any) -> str:
  """Returns the value of a config's key as text."""
  return json.dumps(value)


def _facts(run: Workdir) -> dict[str, Any]:
  """The cells of a run by column."""
  knn, card = run.knn_key, run.card
  data = card.get("data") or {}
  facts = {
    "run": run.name,
    "recipe": run.recipe,
    "data": data.get("source") or run.config.data.source,
    "step": run.step,
    "of": run.total_steps,
    "kNN": run.result(knn),
    "kNN (best)": run.best(knn),
    "kNN (untrained)": run.untrained(knn),
    "top-1": run.result("eval/top1"),
    "probe": run.result("eval/probe_test_accuracy"),
    "effective rank": run.result("eval/effective_rank"),
    "images/s": run.images_per_second,
    "hours": run.hours,
  }
  for one in run.evaluations:
    for name, value in (one.get("results") or {}).items():
      what = f"{one.get('protocol', 'evaluation')} {name}"
      facts[f"{what} ({one['data']})" if one.get("data") else what] = value
  return facts | {
    "config": card.get("config") or config_lib.fingerprint(run.config)
  }
