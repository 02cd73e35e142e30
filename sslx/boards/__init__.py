"""Boards: where a run's metrics are looked at, besides `metrics.jsonl`.

TensorBoard's files are in the workdir. The others are services, which a process
of their own talks to (`service`, `child`), so that no network can stop a run.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from etils import epath

from sslx import storage
from sslx.boards.service import Ids, Service
from sslx.boards.tensorboard import TensorBoard
from sslx.config import ConfigError

IDS = "boards.json"  # The file of a workdir with the services' ids of the run.


class Board(Protocol):
  """Shows the numbers and pictures of a run."""

  def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the numbers of a step, by name."""

  def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """Adds a picture, uint8[h, w, 3]."""

  def flush(self) -> None:
    """Makes what was added visible, if that can be done without a wait."""

  def close(self) -> None:
    """Ends; waits a few seconds at most."""


class Start(NamedTuple):
  """What boards start from.

  Attributes:
    workdir: the workdir of the run.
    step: the first step to be written.
    known: the last step that was written before, or -1; it may be larger.
    ids: the services' ids of the run.
    note: called with messages, also from other threads.
  """

  workdir: epath.Path
  step: int
  known: int
  ids: Ids
  note: Callable[[str], None]


def _tensorboard(start: Start) -> Board:
  return TensorBoard(start.workdir / "tensorboard", start.step)


def _service(name: str, start: Start) -> Board:
  path = start.workdir / "config.json"
  with storage.accessing(path, "read"):
    config = json.loads(path.read_text()) if path.exists() else {}
  run = start.workdir.name
  return Service(name, run, config, start.known, start.ids, start.note)


# A service has the name of its Python module, and of sslx's pip extra.
SERVICES = ("wandb", "mlflow", "aim")
# Names of boards; for each, a function that opens it.
BOARDS: dict[str, Callable[[Start], Board]] = {
  "tensorboard": _tensorboard,
  **{name: functools.partial(_service, name) for name in SERVICES},
}


def check(names: Iterable[str]) -> None:
  """Checks that the services' libraries are installed, without importing them.

  Raises:
    ConfigError: one is not.
  """
  for name in names:
    if name not in SERVICES:
      continue
    found = importlib.util.find_spec(name)
    # A folder such as ./wandb, where runs are stored, counts as a namespace.
    if found is None or found.origin is None:
      raise ConfigError(
        f"config.runtime.boards has {name!r}, and its library is not installed"
        f" here. Install it: pip install 'sslx[{name}]'; or leave it out."
      )


def open_all(
  names: Iterable[str],
  workdir: epath.Path,
  step: int,
  known: int,
  note: Callable[[str], None],
) -> list[Board]:
  """Opens the boards of a run.

  Args:
    names: keys of `BOARDS`.
    workdir, step, known, note: see `Start`.

  Raises:
    StorageError: files cannot be read or written.
  """
  start = Start(workdir, step, known, Ids(workdir / IDS), note)
  return [BOARDS[name](start) for name in names]
