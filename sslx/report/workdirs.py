"""What runs left in their workdirs: config, metrics, card and pictures."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from sslx import card, metrics, schedules, settings, storage, workdir
from sslx import config as config_lib
from sslx.config.tree import leaves
from sslx.recipes import names
from sslx.weights.run import read_config


@dataclasses.dataclass(frozen=True)
class Workdir:
  """One run, finished or not.

  Attributes:
    name: a short name that no other run of the report has.
    path: the workdir.
    config: the config that it was started with.
    values: the same as JSON values, with the keys that have been added since.
    rows: the rows of `metrics.jsonl`.
    card: content of `card.json`; empty if there is none. Any key may be absent.
  """

  name: str
  path: epath.Path
  config: ConfigDict
  values: dict[str, Any]
  rows: list[dict[str, Any]]
  card: Mapping[str, Any]

  @property
  def recipe(self) -> str:
    """The recipe's name, or the method's if the config has no such name."""
    try:
      return self.card.get("recipe") or names.full_name(self.config)
    except (AttributeError, KeyError):
      return self.config.model.method

  @property
  def step(self) -> int:
    """The step of the last row; 0 if there is none."""
    return self.rows[-1]["step"] if self.rows else 0

  @property
  def steps_per_epoch(self) -> int | None:
    """Optimiser steps per epoch; None if no step was logged."""
    found = [x["step"] / x["epoch"] for x in self.rows if x.get("epoch")]
    return round(float(np.median(found))) if found else None

  @property
  def total_steps(self) -> int | None:
    """Length of the run in steps; None if it is not known yet."""
    schedule = config_lib.build(
      settings.Schedule, self.config.schedule, "schedule"
    )
    batch, per_epoch = self.config.data.batch_size, self.steps_per_epoch
    if schedule.epochs is not None and per_epoch is None:
      return None
    length = schedules.Duration(
      schedule.epochs, schedule.steps, schedule.images
    )
    return schedules.steps(length, schedules.Plan(batch, per_epoch or 1))

  def series(self, key: str) -> tuple[list[int], list[float]]:
    """Returns the steps and the finite values of a metric."""
    pairs = [(row["step"], row.get(key)) for row in self.rows]
    pairs = [(step, x) for step, x in pairs if _is_finite(x)]
    return [step for step, _ in pairs], [x for _, x in pairs]

  @property
  def keys(self) -> list[str]:
    """Names of all metrics, in the order of their first rows."""
    found = dict.fromkeys(key for row in self.rows for key in row)
    return [x for x in found if x not in ("step", "epoch", "config")]

  @property
  def knn_key(self) -> str | None:
    """The metric of the kNN accuracy: of the config's first k, if it is there.

    A run lowers k to the number of its images.
    """
    there = [x for x in self.keys if re.fullmatch(r"eval/knn_\d+", x)]
    knn = self.values["runtime"]["evaluate"]["knn"]
    wanted = f"eval/knn_{knn['k'][0]}" if knn else None
    return wanted if wanted in there else next(iter(there), None)

  @property
  def pixels_key(self) -> str | None:
    """The metric of the kNN accuracy of raw pixels, by the same k."""
    return self.knn_key and self.knn_key.replace("/", "/pixels_")

  def result(self, key: str | None) -> float | None:
    """Returns the last value of a metric."""
    values = self.series(key)[1] if key else []
    return values[-1] if values else None

  def untrained(self, key: str | None) -> float | None:
    """Returns the value of a metric at step 0."""
    steps, values = self.series(key) if key else ([], [])
    return values[0] if steps[:1] == [0] else None

  def best(self, key: str | None) -> float | None:
    """Returns the greatest value of a metric after step 0."""
    steps, values = self.series(key) if key else ([], [])
    trained = [x for step, x in zip(steps, values, strict=True) if step]
    return max(trained, default=None)

  @property
  def images_per_second(self) -> float | None:
    """Median speed of the training loop."""
    values = self.series("images_per_second")[1]
    return float(np.median(values)) if values else None

  @property
  def hours(self) -> float | None:
    """Hours that the run took, of its card, or of its steps at their speed."""
    seconds = self.card.get("seconds")
    if _is_finite(seconds):
      return seconds / 3600
    speed = self.images_per_second
    if not speed:
      return None
    return self.step * self.config.data.batch_size / speed / 3600

  @property
  def collapse(self) -> str | None:
    """Says where the features of all images were the same, if anywhere."""
    steps, values = self.series("feature_std")
    pairs = zip(steps, values, strict=True)
    flat = [step for step, x in pairs if x < metrics.COLLAPSED]
    if not flat:
      return None
    if flat[-1] == steps[-1]:
      return (
        f"Collapsed: since step {_since(steps, flat)}, every image has the same"
        f" features (feature_std {values[-1]:.2g}; about 1 if they differ)."
      )
    return (
      f"At {len(flat)} logged steps, from step {flat[0]} to {flat[-1]}, every"
      " image had the same features; later they differ."
    )

  @property
  def evaluations(self) -> list[Mapping[str, Any]]:
    """The evaluations of the card."""
    return [x for x in self.card.get("evaluations") or () if x]

  def pictures(self) -> dict[str, list[tuple[int, epath.Path]]]:
    """Returns the files in `pictures/` by name, each list in order of steps."""
    folder, found = self.path / "pictures", {}
    with storage.accessing(folder, "read"):
      files = list(folder.iterdir()) if folder.is_dir() else []
    for file in files:
      match = re.fullmatch(r"(.*)-(\d+)\.png", file.name)
      if match:
        found.setdefault(match[1], []).append((int(match[2]), file))
    return {name: sorted(found[name]) for name in sorted(found)}


def _since(steps: list[int], flat: list[int]) -> int:
  """The first step of the last stretch of flat steps."""
  healthy = [step for step in steps if step not in set(flat)]
  return min(step for step in flat if not healthy or step > healthy[-1])


def _is_finite(x: Any) -> bool:
  number = isinstance(x, int | float) and not isinstance(x, bool)
  return number and math.isfinite(x)


def read(paths: Sequence[str]) -> list[Workdir]:
  """Reads runs.

  Raises:
    ConfigError: there is no run in a workdir.
    RunError: a file of a run cannot be read.
  """
  folders = [storage.path(path, "WORKDIR") for path in paths]
  found = []
  for folder, name in zip(folders, _names(folders), strict=True):
    config = read_config(str(folder), "WORKDIR")
    values = workdir.read_config(folder / "config.json")
    found.append(
      Workdir(
        name,
        folder,
        config,
        settings.fill(values),
        metrics.read(folder),
        card.read(folder) or {},
      )
    )
  return found


def _names(folders: Sequence[epath.Path]) -> list[str]:
  """Returns the last parts of paths, as many as tell them apart."""
  parts = [os.fspath(folder).rstrip("/").split("/") for folder in folders]
  for n in range(1, max(map(len, parts)) + 1):
    found = ["/".join(x[-n:]) for x in parts]
    if len(set(found)) == len(found):
      return found
  return [f"{'/'.join(x)} ({i})" for i, x in enumerate(parts, 1)]


def differing(runs: Sequence[Workdir]) -> dict[str, list[Any]]:
  """Returns the values of the config's keys that are not the same in all runs.

  None stands for an absent key.
  """
  flat = [dict(leaves(run.values)) for run in runs]
  keys = dict.fromkeys(key for config in flat for key in config)
  found = {key: [config.get(key) for config in flat] for key in keys}
  return {k: x for k, x in found.items() if any(y != x[0] for y in x)}
