"""What a run says: `metrics.jsonl`, TensorBoard and a progress line.

Only the main process writes. Rows of `metrics.jsonl` are `{"step": n, ...}`;
after a resume, rows beyond the restored step are dropped, so a file holds each
step once whatever happened to the run.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import tensorboardX
from PIL import Image

from sslx import parallel


class Writer:
  """Appends scalars to the files of a workdir, and adds pictures."""

  def __init__(self, workdir: pathlib.Path, step: int, config: str = ""):
    """Opens them to go on after `step`, by a config of this fingerprint."""
    self._config = {"config": config} if config else {}
    self._path = workdir / "metrics.jsonl"
    rows = [row for row in read(workdir) if row["step"] <= step]
    new = self._path.with_suffix(".tmp")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(new, self._path)
    self._file = self._path.open("a", buffering=1)
    self._board = tensorboardX.SummaryWriter(
      str(workdir / "tensorboard"), purge_step=step + 1, flush_secs=10
    )

  def write(self, step: int, scalars: dict[str, float]) -> None:
    """Adds one row."""
    self._file.write(
      json.dumps({"step": step, **self._config, **scalars}) + "\n"
    )
    for name, value in scalars.items():
      self._board.add_scalar(name.replace("+", "_"), value, step)

  def write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """Writes uint8[h, w, 3] to `<name>/<step>.png`."""
    folder = self._path.parent / name
    folder.mkdir(exist_ok=True)
    Image.fromarray(picture).save(folder / f"{step}.png")
    self._board.add_image(name, picture, step, dataformats="HWC")

  def flush(self) -> None:
    """Puts all rows on the disk, where a kill cannot reach them."""
    self._file.flush()
    os.fsync(self._file.fileno())
    self._board.flush()

  def close(self) -> None:
    """Closes the files."""
    self.flush()
    self._file.close()
    self._board.close()


def read(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of a workdir's `metrics.jsonl`; a row cut by a kill is left out."""
  path = workdir / "metrics.jsonl"
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      print(f"{path}: an incomplete row was dropped.", flush=True)
  return rows


class NotFiniteError(RuntimeError):
  """The loss or its gradient became infinite or NaN."""

  def __init__(self, step: int, loss: float, grad_norm: float):
    """Names the first such step."""
    super().__init__(
      f"the loss or its gradient is not finite at step {step}: loss {loss},"
      f" gradient norm {grad_norm}."
    )
    self.step = step


class Log:
  """Takes the metrics of every step, and fetches them an interval late.

  Fetching at once would make the host wait for the device at each step. Every
  step is checked for finite values; one in `every` is written.
  """

  def __init__(
    self,
    writer: Writer | None,
    progress: Progress,
    *,
    every: int,
    total: int,
    steps_per_epoch: int,
    batch_size: int,
    of_each_process: Callable[[Sequence[float]], Any] = lambda x: np.array([x]),
  ):
    """Writes to `writer` and `progress`, or nowhere if there is no writer.

    Args:
      writer: of the main process.
      progress: likewise.
      every: steps between rows.
      total: steps of the run.
      steps_per_epoch: steps.
      batch_size: global.
      of_each_process: numbers of this process to those of all, [processes, k];
        called at the rows of the log, in every process.
    """
    self._of_each_process = of_each_process
    self._writer = writer
    self._progress = progress
    self._every = every
    self._total = total
    self._steps_per_epoch = steps_per_epoch
    self._batch_size = batch_size
    self._pending: list[tuple[int, Any, dict[str, float]]] = []
    self._compiled = False
    self._bad_images = 0
    self._start_lap()

  def _start_lap(self) -> None:
    self._since, self._steps = time.perf_counter(), 0
    self._waited = 0.0

  def pause(self, seconds: float) -> None:
    """Takes time off the clock that was not training."""
    self._since += seconds

  def add(
    self,
    step: int,
    metrics: dict[str, jax.Array],
    waited: float = 0.0,
    bad_images: int = 0,
  ) -> None:
    """Adds a step.

    Args:
      step: its number.
      metrics: its scalars, which may still be running.
      waited: seconds that the loop waited for its batch.
      bad_images: how many images this process had to replace so far, since
        they could not be decoded. A row has those since the row before, which
        a run that was interrupted counts as one that was not.

    Raises:
      NotFiniteError: an earlier step's loss or gradient was not finite.
    """
    if not self._compiled:  # The time until now went into compilation.
      self._compiled = True
      self._start_lap()
    else:
      self._steps += 1
      self._waited += waited
    host = {}
    if step % self._every == 0:
      self._flush(self._pending)
      self._pending = []
      wait = math.nan  # Not known of the step that compiles.
      if self._steps:
        lap = time.perf_counter() - self._since
        host["images_per_second"] = self._batch_size * self._steps / lap
        wait = self._waited / lap
      # Fetched with the row, an interval late, as all that devices compute.
      bad = bad_images - self._bad_images
      host["processes"] = self._of_each_process((wait, bad))
      self._bad_images = bad_images
      self._start_lap()
    self._pending.append((step, metrics, host))

  def flush(self) -> None:
    """Waits for the last step added, checks and writes it all.

    Raises:
      NotFiniteError: a step's loss or gradient was not finite.
    """
    self._flush(self._pending)
    self._pending = []
    if self._writer:
      self._writer.flush()

  def _flush(self, pending: list[tuple[int, Any, dict[str, float]]]) -> None:
    for step, metrics, host in parallel.to_host(pending):
      scalars = {name: float(value) for name, value in metrics.items()}
      if not scalars.pop("finite"):
        raise NotFiniteError(step, scalars["loss"], scalars["grad_norm"])
      if step % self._every or self._writer is None:
        continue
      host |= of_processes(host.pop("processes"))
      epoch = step / self._steps_per_epoch
      self._writer.write(step, {"epoch": epoch, **scalars, **host})
      self._progress.update(
        step,
        total=self._total,
        steps_per_epoch=self._steps_per_epoch,
        batch_size=self._batch_size,
        loss=scalars["loss"],
        lr=scalars["lr"],
        images_per_second=host.get("images_per_second", math.nan),
        data_wait=host.get("data_wait", math.nan),
      )


def of_processes(gathered: np.ndarray) -> dict[str, float]:
  """Scalars of a row, from f32[processes, 2]: data wait and bad images.

  Returns:
    `bad_images`, the sum; `data_wait`, the largest share of the time that one
    of them waited for data, since the others then wait for it; and of several
    processes `data_wait/<i>`, that of each. No wait where it is not known.
  """
  waits, bad = np.asarray(gathered, np.float64).T
  row = {}
  if not np.isnan(waits).any():
    row["data_wait"] = float(waits.max())
    if len(waits) > 1:
      row |= {f"data_wait/{i}": float(x) for i, x in enumerate(waits)}
  return row | {"bad_images": int(bad.sum())}


class Progress:
  """One line that is rewritten on a terminal, and appended to in a file."""

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
    """Shows where the run is; `data_wait` is a share of the time."""
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
    """Writes a line that stays."""
    self._stream.write(("\n" if self._open else "") + text + "\n")
    self._stream.flush()
    self._open = False


def duration(seconds: float) -> str:
  """`1:02:03`, or `?` where it is not known."""
  if not math.isfinite(seconds):
    return "?"
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
