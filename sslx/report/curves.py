"""Curves of the metrics of runs, as Plotly's figures."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sslx.report import page
from sslx.report.schedule import Curve
from sslx.report.workdirs import Workdir

_POINTS = 2000  # of a line; more would not be seen
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

# (title, pattern of the metrics, note), in the order of the page. A metric that
# matches none is the method's own.
_KNN = "kNN accuracy"
_CHARTS = (
  ("Loss", r"loss", ""),
  ("Learning rate", r"lr", ""),
  ("Gradient norm", r"grad_norm", ""),
  (_KNN, r"", "Of the test images, by frozen features and by raw pixels."),
  ("Top-1 accuracy", r"(eval/)?top1",
   "Of the training batch and of the test images, by the run's classifiers."),
  ("Linear probe", r"probe_accuracy|eval/probe_test_accuracy",
   "Accuracy on the training batch and on the test images."),
  ("Probe loss", r"probe_loss", ""),
  ("Spread of the features", r"feature_std",
   "About 1 if the features differ; near 0 is a collapse."),
  ("Effective rank", r"eval/effective_rank",
   "Dimensions that the features use."),
  ("Images per second", r"images_per_second", "Of the whole loop."),
  ("Waiting for data", r"data_wait",
   "Share of the time, in the process that waits longest."),
  ("Images that cannot be decoded", r"(eval/)?bad_images", ""),
  ("kNN by other k and features", r"eval/(.*_)?knn_\d+", ""),
)  # fmt: skip


class Chart(NamedTuple):
  """A figure with a title.

  Attributes:
    title: what it shows.
    note: how to read it; "" for nothing.
    traces: traces of Plotly. `meta` has the x values in steps and in epochs.
  """

  title: str
  note: str
  traces: list[dict[str, Any]]


def of_runs(runs: Sequence[Workdir]) -> list[Chart]:
  """Returns the charts of all metrics; every chart has all runs."""
  keys = list(dict.fromkeys(key for run in runs for key in run.keys))
  # Of each process there would be hundreds of lines.
  keys = [key for key in keys if not key.startswith("data_wait/")]
  knn = {run.knn_key for run in runs} | {run.pixels_key for run in runs}
  charts, taken = [], set()
  for title, pattern, note in _CHARTS:
    is_mine = lambda key, pattern=pattern: re.fullmatch(pattern, key)
    mine = [
      key
      for key in keys
      if (key in knn if title == _KNN else is_mine(key)) and key not in taken
    ]
    taken |= set(mine)
    charts.append(Chart(title, note, list(_traces(runs, mine))))
  for key in keys:
    if key not in taken:
      title = key.removeprefix("eval/").replace("_", " ").capitalize()
      charts.append(Chart(title, "", list(_traces(runs, [key]))))
  return [chart for chart in charts if chart.traces]


def _traces(
  runs: Sequence[Workdir], keys: Sequence[str]
) -> Iterator[dict[str, Any]]:
  """Yields a line for each run and metric that has values."""
  for i, run in enumerate(runs):
    for j, key in enumerate(keys):
      steps, values = run.series(key)
      if not values or ("bad_images" in key and not any(values)):
        continue
      if key.startswith("eval/pixels_") and run.step:
        # A baseline, which is computed once.
        steps, values = [0, run.step], values[:1] * 2
      names = [run.name] if len(runs) > 1 else []
      if len(keys) > 1 or not names:
        names.append(key.removeprefix("eval/"))
      yield {
        **line(steps, values, run.steps_per_epoch),
        "name": page.label(" · ".join(names)),
        # The colour is the run's, if there are several.
        "line": _style(i, j) if len(runs) > 1 else _style(j, 0),
      }


def _style(colour: int, dash: int) -> dict[str, Any]:
  dash = _DASHES[dash % len(_DASHES)]
  return {"color": page.colour(colour), "dash": dash, "width": 2}


def line(
  steps: Sequence[int], values: Sequence[float], per_epoch: int | None
) -> dict[str, Any]:
  """Returns a trace with x in steps, and in epochs if their length is known."""
  every = -(-len(steps) // _POINTS)
  x = [int(step) for step in steps[::every]]
  epochs = [step / per_epoch for step in x] if per_epoch else x
  return {
    "type": "scatter",
    "mode": "lines+markers" if len(x) < 30 else "lines",
    "marker": {"size": 5},
    "x": x,
    "y": [float(f"{value:.6g}") for value in values[::every]],
    "meta": {"steps": x, "epochs": [float(f"{e:.6g}") for e in epochs]},
  }


def of_schedules(
  found: Sequence[Curve], steps: np.ndarray, per_epoch: int
) -> list[Chart]:
  """Returns a chart for each group of schedules."""
  charts = []
  for group in dict.fromkeys(curve.group for curve in found):
    mine = [curve for curve in found if curve.group == group]
    traces = [
      {
        **line(steps, curve.at(steps), per_epoch),
        "name": page.label(curve.name or group),
        "line": _style(i, i),
      }
      for i, curve in enumerate(mine)
    ]
    charts.append(Chart(group.capitalize(), "", traces))
  return charts


def png(charts: Sequence[Chart]) -> bytes:
  """Draws the charts below each other, over steps.

  Raises:
    ConfigError: Matplotlib is not installed.
  """
  backend = page.package("matplotlib.backends.backend_agg")
  figure = page.package("matplotlib.figure").Figure(
    figsize=(8, 2.8 * len(charts)), dpi=120, layout="constrained"
  )
  backend.FigureCanvasAgg(figure)
  panels = figure.subplots(len(charts), squeeze=False)[:, 0]
  for panel, chart in zip(panels, charts, strict=True):
    for trace in chart.traces:
      panel.plot(
        trace["meta"]["steps"],
        trace["y"],
        color=trace["line"]["color"],
        label=html.unescape(trace["name"]).replace("$", r"\$"),
      )
    panel.set_title(chart.title, loc="left", fontsize=11)
    panel.grid(alpha=0.3)
    if len(chart.traces) > 1:
      panel.legend(fontsize=7)
  panels[-1].set_xlabel("step")
  out = io.BytesIO()
  figure.savefig(out, format="png")
  return out.getvalue()
