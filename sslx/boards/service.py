"""A board that is a service: Weights & Biases, MLflow or Aim.

Its library runs in a process of its own, `child`, to which this side writes
JSON lines. So neither a slow network, nor a library that fails or hangs, nor
its threads and exit handlers can stop the run, which `metrics.jsonl` records
anyway. The child lives on for up to a minute, if it has more to send.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from sslx import storage
from sslx.errors import StorageError

_PATIENCE = 5.0  # seconds to wait for the child, which reads all the time
_ROOT = pathlib.Path(__file__).parents[2]


class Ids:
  """The services' ids of a run, in a file of its workdir."""

  def __init__(self, path: epath.Path):
    """Reads the file, if there is one.

    Raises:
      StorageError: it cannot be read.
    """
    self._path, self._mutex = path, threading.Lock()
    with storage.accessing(path, "read"):
      data = path.read_bytes() if path.exists() else b"{}"
    try:
      self._ids = dict(json.loads(data))
    except (ValueError, TypeError):  # Damaged: the services begin new runs.
      self._ids = {}

  def get(self, name: str) -> str | None:
    """The id that a service gave to the run; None if it has none."""
    return self._ids.get(name)

  def put(self, name: str, id_: str) -> None:
    """Stores an id.

    Raises:
      StorageError: it cannot be written.
    """
    with self._mutex:
      if self._ids.get(name) != id_:
        self._ids[name] = id_
        storage.write(self._path, json.dumps(self._ids) + "\n")


class Service:
  """Sends a run to a service; see `boards.Board`. Nothing here raises."""

  def __init__(
    self,
    name: str,
    run: str,
    config: dict[str, Any],
    known: int,
    ids: Ids,
    note: Callable[[str], None],
  ):
    """Starts the child; does not wait for it.

    Args:
      name: the service, a module of this package.
      run: name of the run.
      config: the run's config, as JSON values.
      known: the last step that was written before, or -1.
      ids: holds the id of the run, if the service has it already.
      note: called with messages, from another thread.
    """
    self._name, self._ids, self._note = name, ids, note
    self._mutex = threading.Lock()
    self._quiet, self._thread = False, None
    ours, theirs = socket.socketpair()
    ours.settimeout(_PATIENCE)
    self._socket = ours
    path = [os.fspath(_ROOT), os.environ.get("PYTHONPATH", "")]
    try:
      with theirs:
        self._process = subprocess.Popen(
          [sys.executable, "-m", "sslx.boards.child", name],
          stdin=theirs,
          stdout=subprocess.PIPE,
          stderr=subprocess.DEVNULL,
          env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
          start_new_session=True,  # A terminal's Ctrl-C is for the run.
        )
    except OSError as error:  # Perhaps there is no memory left.
      return self._stop(f"its process cannot be started: {error}")
    self._thread = threading.Thread(target=self._listen, daemon=True, name=name)
    self._thread.start()
    self._send(id=ids.get(name), name=run, config=config, known=known)

  def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """See `boards.Board`."""
    self._send(step=step, scalars=dict(scalars))

  def add_picture(self, step: int, name: str, picture: np.ndarray) -> None:
    """See `boards.Board`."""
    png = io.BytesIO()
    Image.fromarray(picture).save(png, format="png")
    data = base64.b64encode(png.getvalue()).decode()
    self._send(step=step, picture=name, png=data)

  def flush(self) -> None:
    """Does nothing: the child sends on its own."""

  def close(self) -> None:
    """Waits a few seconds until all is sent."""
    self._send(end=True)
    self._socket.close()
    if self._thread is None:
      return
    self._thread.join(_PATIENCE)
    if self._thread.is_alive():
      self._note(
        f"{self._name} has not taken everything yet: a process sends on for up"
        " to a minute, and the run does not wait for it"
      )

  def _send(self, **message: Any) -> None:
    if self._quiet:
      return
    try:
      self._socket.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
      self._stop("its process does not read")

  def _listen(self) -> None:
    """Reads what the child says; runs in a thread."""
    done = False
    with self._process.stdout as lines:
      for line in lines:
        said = json.loads(line)
        if "error" in said:
          self._stop(said["error"])
        if "id" in said:
          self._note(f"{self._name}: {said['where']}")
          try:
            self._ids.put(self._name, said["id"])
          except StorageError as error:
            self._stop(str(error))
        done = done or "done" in said
    self._process.wait()
    if not done:
      self._stop("its process ended")

  def _stop(self, reason: str) -> None:
    """Reports the first error; nothing is sent after it."""
    with self._mutex:
      if self._quiet:
        return
      self._quiet = True
    self._note(
      f"{self._name}: {reason}. From here on nothing is sent there; the run"
      " goes on, and metrics.jsonl has all rows."
    )
