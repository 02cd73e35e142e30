"""Weights & Biases, as `child` uses it.

Project, entity, mode and server are those of W&B's own environment variables.
Online, W&B refuses to go back: it drops rows up to the last step that it has.
Offline, it cannot know that step; rows of `known` steps are dropped here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np


class Client:
  """A run of W&B; see `child`."""

  def __init__(
    self, name: str, config: dict[str, Any], id: str | None, known: int
  ):
    """Begins a run, or goes on with the run `id`, which must exist."""
    import wandb

    self._run = wandb.init(
      project=os.environ.get("WANDB_PROJECT", "sslx"),
      name=os.environ.get("WANDB_NAME", name),
      config=config,
      id=id,
      resume="must" if id else None,
      allow_val_change=True,  # Some keys may change on resume.
      settings=wandb.Settings(console="off", silent=True),
    )
    self._picture = wandb.Image
    self._known = known if id and self._run.offline else -1
    self.id = self._run.id
    self.where = (
      self._run.url or f"offline, in {os.path.dirname(self._run.dir)}"
    )

  def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the numbers of a step."""
    if step > self._known:
      self._run.log(dict(scalars), step=step)

  def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """Adds a picture, uint8[h, w, 3]."""
    if step > self._known:
      self._run.log({name: self._picture(picture)}, step=step)

  def close(self, ended: bool) -> None:
    """Sends the rest; `ended` is whether the run closed its metrics."""
    self._run.finish(exit_code=0 if ended else 1)
