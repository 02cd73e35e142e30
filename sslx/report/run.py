"""The page of runs: results, curves, pictures, features, config."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sslx.config import ConfigError
from sslx.config.tree import leaves
from sslx.errors import RunError
from sslx.models.vit import ViT
from sslx.report import compare, curves, maps, page, pictures, samples
from sslx.report.tables import Table, cell
from sslx.report.workdirs import Workdir
from sslx.weights.run import open_run


class Settings(NamedTuple):
  """What the page shows.

  Attributes:
    data: whether to read the images; without, there are no views, no map, no
      neighbours and no attention.
    images: images of the map, at most, and of the bank of neighbours.
    map: how to draw the map.
  """

  data: bool = True
  images: int = 1000
  map: maps.Method = "tsne"


class Part(NamedTuple):
  """One part of a run's section, or the reason why it is not there.

  Attributes:
    kind: "views", "pictures", "map", "neighbours" or "attention".
    title: its heading.
    content: what the template shows; None if it is not there.
    reason: why it is not there.
  """

  kind: str
  title: str
  content: Any = None
  reason: str = ""


_VIEWS, _PICTURES, _NEIGHBOURS, _K, _ATTENTION = 3, 6, 8, 7, 6


def html(
  runs: Sequence[Workdir],
  settings: Settings,
  note: Callable[[str], None] = print,
) -> str:
  """Returns the page of one run, or of several overlaid.

  Args:
    runs: the runs.
    settings: what to show.
    note: called with what is being drawn, since some of it takes a while.

  Raises:
    ConfigError: an optional package is not installed.
  """
  for name in ("jinja2", "plotly.offline"):  # Before what takes long.
    page.package(name)
  if settings.data:
    page.package(
      *{"tsne": ("sklearn",), "umap": ("umap", "umap")}[settings.map]
    )
  sections = []
  for i, run in enumerate(runs):
    note(f"reading {run.path}")
    sections.append(
      {
        "run": run,
        "colour": page.colour(i),
        "tiles": tiles(run),
        "facts": facts(run),
        "parts": list(parts(run, settings)),
        "evaluations": evaluations(run),
        "card": described(run),
        "config": config(run),
      }
    )
  differ = compare.differences(runs) if len(runs) > 1 else None
  return page.render(
    "run.html",
    charts=True,
    title=" · ".join(run.name for run in runs),
    sections=sections,
    curves=curves.of_runs(runs),
    comparison=compare.tables(runs)[0] if len(runs) > 1 else None,
    differences=differ,
  )


def facts(run: Workdir) -> str:
  """Returns one line about a run."""
  total = run.total_steps
  if total is None or run.step < total:
    state = f"step {run.step:,}" + (f" of {total:,}" if total else "")
    state += ", not finished"
  else:
    state = f"finished, {run.step:,} steps"
  network = run.config.model.backbone.name
  return (
    f"{run.config.model.method} · {network} · {run.config.data.source} ·"
    f" {state} · batch {run.config.data.batch_size:,}"
  )


def tiles(run: Workdir) -> list[tuple[str, str]]:
  """Returns (value, what it is) of the results that there are."""
  key = run.knn_key
  percent = lambda x: None if x is None else f"{100 * x:.1f} %"
  k = f" (k={key.rpartition('_')[2]})" if key else ""
  # Step 0 is the untrained encoder, not a result.
  trained = run.result(key) if run.best(key) is not None else None
  found = [
    (percent(trained), f"kNN accuracy{k}"),
    (percent(run.untrained(key)), "kNN, untrained encoder"),
    (percent(run.result(run.pixels_key)), "kNN, raw pixels"),
    (percent(run.result("eval/top1")), "top-1 accuracy, test"),
    (percent(run.result("eval/probe_test_accuracy")), "linear probe, test"),
    (_short(run.result("eval/effective_rank")), "effective rank"),
    (_short(run.result("loss")), "loss"),
    (_short(run.images_per_second), "images/s"),
    (_duration(run.hours), "duration"),
  ]
  return [(value, what) for value, what in found if value is not None]


def _short(x: float | None) -> str | None:
  if x is None:
    return None
  return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def _duration(hours: float | None) -> str | None:
  if hours is None:
    return None
  for size, unit in ((24.0, "days"), (1.0, "h"), (1 / 60, "min")):
    if hours >= 2 * size:
      return f"{hours / size:.1f} {unit}"
  return f"{3600 * hours:.0f} s"


def parts(run: Workdir, settings: Settings) -> Iterator[Part]:
  """Yields the parts of a run that need its pictures, data or checkpoint."""
  title = "Pictures over the run"
  found = pictures.of_workdir(run, _PICTURES)
  if found:
    yield Part("pictures", title, found)
  else:
    reason = "the run has drawn none; only some methods draw, at evaluations"
    yield Part("pictures", title, reason=reason)
  titles = {
    "views": "Views given to the network",
    "map": "Map of the features",
    "neighbours": "Nearest neighbours",
    "attention": "Attention of the last block",
  }
  if not settings.data:
    for kind, title in titles.items():
      yield Part(kind, title, reason="--nodata was given")
    return
  yield _tried("views", titles["views"], lambda: pictures.of_views(run, _VIEWS))
  try:
    network = open_run(str(run.path))
    sample, bank = samples.take(network, settings.images)
  except (ConfigError, RunError) as error:
    for kind in ("map", "neighbours", "attention"):
      yield Part(kind, titles[kind], reason=str(error))
    return
  of_step = f"step {network.step:,}, the {network.network}"
  yield _tried(
    "map",
    f"{titles['map']} ({of_step})",
    lambda: maps.chart(sample, settings.map),
  )
  yield Part(
    "neighbours",
    f"{titles['neighbours']} ({of_step})",
    maps.neighbours(sample, bank, _NEIGHBOURS, _K),
  )
  if isinstance(network.backbone, ViT):
    drawn = pictures.of_attention(network, sample, _ATTENTION)
    yield Part("attention", f"{titles['attention']} ({of_step})", drawn)
  else:
    yield Part(
      "attention", titles["attention"], reason="the backbone is not a ViT"
    )


def _tried(kind: str, title: str, draw: Callable[[], Any]) -> Part:
  try:
    return Part(kind, title, draw())
  except (ConfigError, RunError) as error:
    return Part(kind, title, reason=str(error))


def config(run: Workdir) -> Table:
  """Returns the keys of the config."""
  rows = [
    (f"config.{key}", compare.written(value))
    for key, value in leaves(run.values)
  ]
  return Table("Config", ("key", "value"), rows)


def evaluations(run: Workdir) -> Table | None:
  """Returns the evaluations of the run's card; None if there are none."""
  rows = []
  for one in run.evaluations:
    before = one.get("before") or {}
    about = [one.get(key) for key in ("step", "network", "date", "command")]
    name = " ".join(
      str(one[key]) for key in ("protocol", "version") if one.get(key)
    )
    for result, value in (one.get("results") or {}).items():
      row = (name, one.get("data"), result, value, before.get(result), *about)
      rows.append(row)
  head = ("protocol", "data", "result", "value", "untrained", "step",
          "network", "date", "command")  # fmt: skip
  return Table("Evaluations", head, rows) if rows else None


def described(run: Workdir) -> Table | None:
  """Returns what the card says about how the run was made; None without one."""
  rows = [
    (key, json.dumps(value) if isinstance(value, list) else cell(value))
    for key, value in _flat(run.card)
    if key.split(".")[0] not in ("evaluations", "version") and value is not None
  ]
  return Table("Run and environment", ("", ""), rows) if rows else None


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f"{path}{key}.")
    else:
      yield f"{path}{key}", value
