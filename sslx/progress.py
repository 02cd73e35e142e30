"""The progress line of a run, and permanent notes."""

from __future__ import annotations

import math
import sys
from typing import Any


class Progress:
  """A progress line: rewritten on a terminal, appended to a file."""

  def __init__(self, stream: Any = None):
    """Writes to `stream`, or to standard output."""
    self._stream = stream or sys.stdout
    self._live = self._stream.isatty()
    self._open = False

  def update(
    self,
    step: int,
    *,
    total: int,
    steps_per_epoch: int,
    batch_size: int,
    loss: float,
    lr: float,
    images_per_second: float,
    data_wait: float,
  ) -> None:
    """Shows the progress; `data_wait` is a fraction of the time."""
    eta = (total - step) * batch_size / images_per_second
    speed = "?"
    if math.isfinite(images_per_second):
      speed = f"{images_per_second:,.0f}"
    line = (
      f"epoch {step / steps_per_epoch:.1f}/{total / steps_per_epoch:g}"
      f"  step {step}/{total}  loss {loss:.4f}  lr {lr:.3g}"
      f"  {speed} images/s"
      f"{f' ({data_wait:.0%} waiting for data)' if data_wait >= 0.01 else ''}"
      f"  ETA {duration(eta)}"
    )
    if self._live:
      self._stream.write(f"\r\033[K{line}")
      self._open = True
    else:
      self._stream.write(line + "\n")
    self._stream.flush()

  def note(self, text: str) -> None:
    """Writes a permanent line."""
    self._stream.write(("\n" if self._open else "") + text + "\n")
    self._stream.flush()
    self._open = False


def duration(seconds: float) -> str:
  """Formats seconds as `1:02:03`, or as `?` if they are not finite."""
  if not math.isfinite(seconds):
    return "?"
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
