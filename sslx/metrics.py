"""The metrics of a run: `metrics.jsonl`, boards, and the log of steps.

Only the main process writes. Rows of `metrics.jsonl` are `{"step": n, ...}`.
After a resume, rows beyond the restored step are dropped, so the file holds
each step only once, even if the run was interrupted.
"""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from sslx import boards as boards_lib
from sslx import parallel, storage
from sslx.errors import RunError
from sslx.progress import Progress

# Below this `monitors.feature_std`, a collapse is reported.
COLLAPSED = 0.01


class Writer:
  """Writes scalars and pictures to the files of a workdir, and to boards."""

  def __init__(
    self,
    workdir: epath.Path,
    step: int,
    config: str = "",
    *,
    resumed: bool = True,
    boards: Sequence[str] = ("tensorboard",),
    note: Callable[[str], None] = print,
  ):
    """Opens the files, to continue after `step`.

    Args:
      workdir: the workdir of the run.
      step: rows of later steps are dropped.
      config: the config's fingerprint, which is added to every row.
      resumed: False drops all rows, since the run starts from scratch.
      boards: names of boards, keys of `boards.BOARDS`.
      note: called with a message about rows that cannot be read, and with those
        of the boards.

    Raises:
      StorageError: the files cannot be read or written.
    """
    self._config = {"config": config} if config else {}
    self._workdir = workdir
    self._path = workdir / "metrics.jsonl"
    rows = read(workdir, note)
    known = max((row["step"] for row in rows), default=-1)
    kept = [row for row in rows if resumed and row["step"] <= step]
    lines = [json.dumps(row) + "\n" for row in kept]
    storage.write(self._path, "".join(lines))
    self._file, self._lines = None, lines  # Stores have no append: keep all.
    if not storage.is_remote(workdir):
      with storage.accessing(self._path):
        self._file = open(self._path, "a", buffering=1)
    first = step + 1 if resumed else 0
    self._boards = boards_lib.open_all(boards, workdir, first, known, note)

  def write(self, step: int, scalars: dict[str, float]) -> None:
    """Adds one row.

    Raises:
      StorageError: it cannot be written; for example, the disk is full.
    """
    row = json.dumps({"step": step, **self._config, **scalars}) + "\n"
    if self._file:
      with storage.accessing(self._path):
        self._file.write(row)
    else:
      self._lines.append(row)
    # Boards do not take every character.
    named = {name.replace("+", "_"): x for name, x in scalars.items()}
    for board in self._boards:
      board.add_scalars(step, named)

  def write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """Writes uint8[h, w, 3] to `pictures/<name>-<step>.png`.

    Raises:
      StorageError: it cannot be written.
    """
    folder = self._workdir / "pictures"
    storage.make_folder(folder)
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="png")
    storage.write(folder / f"{name}-{step}.png", png.getvalue())
    for board in self._boards:
      board.add_picture(step, name, picture)

  def flush(self) -> None:
    """Writes all rows to disk, where they survive a kill.

    Raises:
      StorageError: they cannot be written.
    """
    if self._file:
      with storage.accessing(self._path):
        self._file.flush()
        os.fsync(self._file.fileno())
    else:
      storage.write(self._path, "".join(self._lines))
    for board in self._boards:
      board.flush()

  def close(self) -> None:
    """Closes the files.

    Raises:
      StorageError: the last rows cannot be written.
    """
    self.flush()
    if self._file:
      self._file.close()
    for board in self._boards:
      board.close()


def read(
  workdir: epath.Path, note: Callable[[str], None] = print
) -> list[dict[str, Any]]:
  """Reads the rows of a workdir's `metrics.jsonl`.

  Skips damaged rows. A kill may cut the last row short. If there is any other
  damage, the file is copied to `metrics.damaged.jsonl` next to it.

  Args:
    workdir: the workdir of a run.
    note: called with a message about skipped rows.

  Raises:
    StorageError: the file cannot be read.
  """
  path = epath.Path(workdir) / "metrics.jsonl"
  with storage.accessing(path, "read"):
    data = path.read_bytes() if path.exists() else b""
  rows, wrong = [], []
  lines = data.splitlines()
  for number, line in enumerate(lines, 1):
    row = _parsed(line)
    if row is None:
      wrong.append(number)
    else:
      rows.append(row)
  if wrong == [len(lines)] and not data.endswith(b"\n"):
    note(f"{path}: its last row is incomplete; it is left out.")
  elif wrong:
    kept = path.with_name("metrics.damaged.jsonl")
    storage.write(kept, data)
    note(
      f"{path}: {len(wrong)} of {len(lines)} rows are not metrics, the first"
      f" in line {wrong[0]}; they are left out. The file as it was: {kept}"
    )
  return rows


def evaluation(row: Mapping[str, Any]) -> dict[str, float]:
  """Returns the results of an evaluation by name; none if a row has no such."""
  return {
    key.removeprefix("eval/"): value
    for key, value in row.items()
    if key.startswith("eval/")
  }


def _parsed(line: bytes) -> dict[str, Any] | None:
  """Parses a line; returns None if it is not a row of metrics."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):  # Not JSON, or not UTF-8.
    return None
  is_row = isinstance(row, dict) and isinstance(row.get("step"), int)
  return row if is_row else None


class NotFiniteError(RunError):
  """The loss or its gradient became infinite or NaN."""

  def __init__(self, step: int, loss: float, grad_norm: float):
    """Makes the message, with the number of the first such step."""
    super().__init__(
      f"the loss or its gradient is not finite at step {step}: loss {loss},"
      f" gradient norm {grad_norm}."
    )
    self.step = step


class Log:
  """Collects the metrics of every step, and fetches them one interval late.

  Fetching them at every step would make the host wait for the device. All steps
  are checked for finite values; one in `every` is written.
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
      writer: the writer, in the main process only.
      progress: the progress line.
      every: steps between rows.
      total: steps of the run.
      steps_per_epoch: optimiser steps per epoch.
      batch_size: global batch size.
      of_each_process: gathers k numbers of each process to [processes, k];
        called for each row of the log, in every process.
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
    self._collapsed = False
    self._start_lap()

  def _start_lap(self) -> None:
    self._since, self._steps = time.perf_counter(), 0
    self._waited = 0.0

  def pause(self, seconds: float) -> None:
    """Excludes time not spent training from the throughput."""
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
      step: number of the step.
      metrics: its scalars; devices may still be computing them.
      waited: seconds that the loop waited for the step's batch.
      bad_images: number of images that this process has replaced so far because
        they could not be decoded. A row holds the number since the row before,
        so that an interrupted run has the same rows as an uninterrupted one.

    Raises:
      NotFiniteError: an earlier step's loss or gradient was not finite.
    """
    if not self._compiled:  # The time until now was compilation.
      self._compiled = True
      self._start_lap()
    else:
      self._steps += 1
      self._waited += waited
    host = {}
    if step % self._every == 0:
      self._flush(self._pending)
      self._pending = []
      wait = math.nan  # Unknown for the step that compiles.
      if self._steps:
        lap = time.perf_counter() - self._since
        host["images_per_second"] = self._batch_size * self._steps / lap
        wait = self._waited / lap
      # Fetched with the row, one interval late, like the other metrics.
      bad = bad_images - self._bad_images
      host["processes"] = self._of_each_process((wait, bad))
      self._bad_images = bad_images
      self._start_lap()
    self._pending.append((step, metrics, host))

  def flush(self) -> None:
    """Waits for all steps added so far; checks and writes them.

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
      self._tell_of_collapse(step, scalars.get("feature_std", math.inf))
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

  def _tell_of_collapse(self, step: int, feature_std: float) -> None:
    """Reports a collapse once, when it begins."""
    if feature_std < COLLAPSED and not self._collapsed:
      self._progress.note(
        f"collapse: at step {step} every image has the same features"
        f" (feature_std {feature_std:.2g}; about 1 if they differ). Either the"
        " images are all alike, such as black, which `python -m sslx.report"
        " views` shows; or the method has collapsed, perhaps by too high a"
        " learning rate."
      )
    self._collapsed = feature_std < COLLAPSED


def of_processes(gathered: np.ndarray) -> dict[str, float]:
  """Computes scalars of a row from f32[processes, 2]: data wait, bad images.

  Returns:
    `bad_images`: the sum. `data_wait`: the fraction of the time spent waiting
    for data, in the process that waits longest, since all others wait for that
    process. `data_wait/<i>`: the same for process i, if there are several.
    Without the waits if they are unknown.
  """
  waits, bad = np.asarray(gathered, np.float64).T
  row = {}
  if not np.isnan(waits).any():
    row["data_wait"] = float(waits.max())
    if len(waits) > 1:
      row |= {f"data_wait/{i}": float(x) for i, x in enumerate(waits)}
  return row | {"bad_images": int(bad.sum())}
