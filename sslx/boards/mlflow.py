"""MLflow, as `child` uses it.

The server and the experiment are those of MLflow's own environment variables.
MLflow keeps every value that it gets, so values of steps that it has already
are dropped here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from sslx.config.tree import leaves

_PARAMS = 100  # The most that MLflow takes at a time.


class Client:
  """A run of MLflow; see `child`."""

  def __init__(
    self, name: str, config: dict[str, Any], id: str | None, known: int
  ):
    """Begins a run, or goes on with the run `id`, which must exist."""
    import mlflow
    from mlflow import entities

    self._entities, self._client = entities, mlflow.MlflowClient()
    self._last: dict[str, int] = {}  # Last step by name of metric.
    self._asks = id is not None
    if id is None:
      experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sslx")
      experiment = mlflow.set_experiment(experiment).experiment_id
      id = self._client.create_run(experiment, run_name=name).info.run_id
      params = [entities.Param(k, str(v)[:6000]) for k, v in leaves(config)]
      for i in range(0, len(params), _PARAMS):
        self._client.log_batch(id, params=params[i : i + _PARAMS])
    else:
      self._client.update_run(id, status="RUNNING")
    self.id = id
    self.where = f"run {id} in {mlflow.get_tracking_uri()}"

  def _is_new(self, name: str, step: int) -> bool:
    """Whether MLflow does not have a metric of a step."""
    if self._asks and name not in self._last:
      found = self._client.get_metric_history(self.id, name)
      self._last[name] = max((x.step for x in found), default=-1)
    return step > self._last.get(name, -1)

  def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the numbers of a step."""
    now = time.time_ns() // 10**6
    metrics = [
      self._entities.Metric(name, value, now, step)
      for name, value in scalars.items()
      if self._is_new(name, step)
    ]
    self._client.log_batch(self.id, metrics=metrics)

  def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """Adds a picture, uint8[h, w, 3], as an artifact of its step."""
    file = f"pictures/{name}-{step}.png"  # One of the same name is replaced.
    self._client.log_image(self.id, picture, file)

  def close(self, ended: bool) -> None:
    """Ends the run; `ended` is whether the run closed its metrics."""
    status = "FINISHED" if ended else "KILLED"
    self._client.set_terminated(self.id, status)
