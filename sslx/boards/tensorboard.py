"""Writes TensorBoard events in the caller's thread.

tensorboardX's own `SummaryWriter` writes from a thread. If the disk is full,
that thread dies silently, and the caller waits for it forever. Here the caller
gets the error.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping

import numpy as np
from etils import epath

from sslx import storage


class TensorBoard:
  """Adds events to a folder; each object writes its own files."""

  def __init__(self, folder: epath.Path, step: int):
    """Opens a file.

    Args:
      folder: the folder of all event files of a run.
      step: TensorBoard drops earlier files' events of this step and later ones.

    Raises:
      StorageError: the folder or file cannot be made.
    """
    storage.make_folder(folder)
    self._folder = folder
    self._spool = None
    if storage.is_remote(folder):
      # A store has no append: each flush uploads a new file.
      self._spool = tempfile.TemporaryDirectory(prefix="sslx-tensorboard-")
    self._open()
    from tensorboardX.proto import event_pb2

    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(step=step, session_log=start)

  def _open(self) -> None:
    # If torch is installed, this imports it, which takes seconds. The import is
    # here, so that only the process that writes waits.
    from tensorboardX.event_file_writer import EventsWriter

    local = self._spool.name if self._spool else os.fspath(self._folder)
    self._empty = True
    with storage.accessing(self._folder):
      self._file = EventsWriter(
        os.path.join(local, "events"), f".{time.time_ns()}"
      )

  def _write(self, **fields) -> None:
    from tensorboardX.proto import event_pb2

    self._empty = False
    with storage.accessing(self._folder):
      self._file.write_event(event_pb2.Event(wall_time=time.time(), **fields))

  def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """See `boards.Board`.

    Raises:
      StorageError: they cannot be written.
    """
    from tensorboardX import summary

    for name, value in scalars.items():
      self._write(step=step, summary=summary.scalar(name, value))

  def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """See `boards.Board`.

    Raises:
      StorageError: it cannot be written.
    """
    from tensorboardX import summary

    image = summary.image(name, picture, dataformats="HWC")
    self._write(step=step, summary=image)

  def flush(self) -> None:
    """Makes the events visible to readers.

    Raises:
      StorageError: they cannot be written.
    """
    with storage.accessing(self._folder):
      self._file.flush()
    if self._spool and not self._empty:
      self._upload()
      self._open()

  def _upload(self) -> None:
    with storage.accessing(self._folder):
      self._file.close()
      if self._empty:
        return
      for name in os.listdir(self._spool.name):
        local = epath.Path(self._spool.name) / name
        storage.write(self._folder / name, local.read_bytes())
        local.unlink()

  def close(self) -> None:
    """Closes the file.

    Raises:
      StorageError: its last events cannot be written.
    """
    if self._spool:
      self._upload()
      self._spool.cleanup()
    else:
      with storage.accessing(self._folder):
        self._file.close()
