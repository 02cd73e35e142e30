"""Aim, as `child` uses it.

The repository is the `.aim` that Aim finds from the working directory. A value
of a step that Aim has already replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image


class Client:
  """A run of Aim; see `child`."""

  def __init__(
    self, name: str, config: dict[str, Any], id: str | None, known: int
  ):
    """Begins a run, or goes on with the run `id`, which must exist."""
    import aim

    self._run = aim.Run(
      run_hash=id,
      experiment="sslx",
      system_tracking_interval=None,
      log_system_params=False,
      capture_terminal_logs=False,
    )
    self._picture = aim.Image
    self._run.name = name
    self._run["config"] = config
    self.id = self._run.hash
    self.where = f"run {self.id} in {os.fspath(self._run.repo.path)}"

  def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the numbers of a step."""
    for name, value in scalars.items():
      self._run.track(value, name=name, step=step)

  def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """Adds a picture, uint8[h, w, 3]."""
    image = self._picture(Image.fromarray(picture))
    self._run.track(image, name=name, step=step)

  def close(self, ended: bool) -> None:
    """Ends the run."""
    self._run.close()
