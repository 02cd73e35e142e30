"""The other processes of a job: their positions, failures and common stop.

The processes communicate through the key-value store of JAX's coordination
service, which process 0 hosts. Every second, each process reports its position.
Only process 0 reads all reports and notices silent processes. The others read
only a few values. So in a job of a thousand hosts, process 0 serves a few
thousand small requests per second.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # The only way to the key-value store.

from sslx.config import ConfigError
from sslx.errors import RESTART, RestartError

EVERY = 1.0  # seconds between two reports
_DONE = "done"
# Process 0 hosts the store: it waits this long for the others to leave first.
_LINGER = 10.0


class Peers:
  """The processes of this job, seen from one of them."""

  def __init__(self, heartbeat_timeout: float):
    """Connects to the processes that `jax.distributed` has joined.

    Args:
      heartbeat_timeout: seconds of silence after which a process is lost.
    """
    state = distributed.global_state
    self._client = state.client
    self._index, self._count = state.process_id, state.num_processes
    self._timeout, self._host = heartbeat_timeout, socket.gethostname()
    self._heard: dict[int, tuple[str, float]] = {}
    self._closed = threading.Event()
    self._leaving = threading.Lock()

  def start(
    self,
    where: Callable[[], tuple[int, str, int | None]],
    on_stop: Callable[[int], None],
  ) -> None:
    """Starts a thread that reports to and reads from the store.

    Args:
      where: returns this process's step, its phase, and the signal that it has
        received, if any.
      on_stop: called, once or more, with the signal that stops all processes.
    """
    threading.Thread(
      target=self._run, args=(where, on_stop), daemon=True, name="peers"
    ).start()

  def _run(
    self,
    where: Callable[[], tuple[int, str, int | None]],
    on_stop: Callable[[int], None],
  ) -> None:
    words = 0
    while not self._closed.wait(EVERY):
      words += 1
      try:
        step, phase, signum = where()
        word = {"n": words, "step": step, "phase": phase, "host": self._host}
        self._say(f"at/{self._index}", word)
        if signum is not None:
          with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._say("word/stop", signum, once=True)  # First signal wins.
        self._listen(on_stop)
      except RestartError as error:
        self.fail(str(error), error.exit_code)
      except Exception as error:
        # The store is in process 0: without it the processes cannot agree.
        if not self._closed.is_set():
          self._print(
            "process 0, which keeps the processes together, does not answer:"
            f" {str(error).splitlines()[0]}. Look at its output for the cause;"
            " start the job again to go on from the last checkpoint."
          )
          os._exit(RESTART)

  def _listen(self, on_stop: Callable[[int], None]) -> None:
    said = {
      key.rpartition("/")[2]: json.loads(text)
      for key, text in self._client.key_value_dir_get("sslx/word/")
    }
    if failed := said.get("error"):
      if failed["process"] != self._index:
        self._print(
          f"process {failed['process']} on {failed['host']} failed first; its"
          " output says why. This process ends with it."
        )
        self.leave(failed["code"])
    elif "stop" in said:
      on_stop(said["stop"])
    if self._index == 0:
      self._find_lost()

  def _find_lost(self) -> None:
    now = time.monotonic()
    for index, text in self._board().items():
      if index not in self._heard or self._heard[index][0] != text:
        self._heard[index] = text, now
    for index, (text, since) in self._heard.items():
      said = json.loads(text)
      if said["phase"] != _DONE and now - since > self._timeout:
        self.fail(
          f"process {index} on {said['host']} is lost: it has said nothing for"
          f" {now - since:.0f} s. It was at step {said['step']},"
          f" {said['phase']}. Start the job again to go on from the last"
          " checkpoint.",
          RESTART,
        )

  def _board(self) -> dict[int, str]:
    """Returns the last report of each process, as JSON."""
    found = self._client.key_value_dir_get("sslx/at/")
    return {int(key.rpartition("/")[2]): text for key, text in found}

  def positions(self) -> str:
    """Lists the processes' positions, a line each, furthest behind first."""
    board = {i: json.loads(text) for i, text in self._board().items()}
    lines = [
      f"  process {i} on {said['host']}: step {said['step']}, {said['phase']}"
      for i, said in sorted(board.items(), key=lambda item: item[1]["step"])
    ]
    if silent := sorted(set(range(self._count)) - board.keys()):
      lines.append(f"  never heard of: processes {silent}")
    more = [f"  and {len(lines) - 16} more"] if len(lines) > 16 else []
    return "\n".join(lines[:16] + more)

  def _say(self, key: str, value: Any, *, once: bool = False) -> None:
    """Stores a value; with `once`, raises if the key already has one."""
    self._client.key_value_set(
      f"sslx/{key}", json.dumps(value), allow_overwrite=not once
    )

  def broadcast(self, name: str, value: Any, timeout: float) -> Any:
    """Returns process 0's value in every process.

    Args:
      name: key of the value.
      value: JSON value; only process 0's is used.
      timeout: seconds to wait for it.

    Raises:
      RestartError: process 0 did not give its value in time.
    """
    if self._index == 0:
      self._say(f"broadcast/{name}", value)
      return value
    return self._get(f"broadcast/{name}", 0, timeout)

  def gather(self, name: str, value: Any, timeout: float) -> list[Any] | None:
    """Gathers the values of all processes in process 0.

    Args:
      name: key of the values.
      value: JSON value of this process.
      timeout: seconds to wait for all values.

    Returns:
      The values in the order of the processes; None except in process 0.

    Raises:
      RestartError: a process did not give its value in time.
    """
    self._say(f"gather/{name}/{self._index}", value)
    if self._index:
      return None
    end = time.monotonic() + timeout
    return [
      self._get(f"gather/{name}/{i}", i, max(0.1, end - time.monotonic()))
      for i in range(self._count)
    ]

  def _get(self, key: str, process: int, timeout: float) -> Any:
    try:
      text = self._client.blocking_key_value_get(
        f"sslx/{key}", int(timeout * 1000)
      )
    except jax.errors.JaxRuntimeError as error:
      raise RestartError(
        f"process {process} did not get as far as the others within"
        f" {timeout:.0f} s ({key}). Look at its output for the cause."
      ) from error
    return json.loads(text)

  def check_same(
    self,
    name: str,
    value: Any,
    differs: Callable[[Any, Any], str],
    timeout: float,
  ) -> None:
    """Checks that all processes give the same value.

    Args:
      name: key of the values.
      value: JSON value of this process.
      differs: describes how two values differ; "" if they do not.
      timeout: seconds to wait for all values.

    Raises:
      ConfigError: the values differ. Raised in every process.
      RestartError: a process did not give its value in time.
    """
    values = self.gather(name, value, timeout)
    problem = None
    if values is not None:
      found = [(i, differs(values[0], x)) for i, x in enumerate(values)]
      lines = [f"process {i}: {text}" for i, text in found if text]
      problem = "\n".join(lines[:8])
    problem = self.broadcast(f"{name}/verdict", problem, timeout)
    if problem:
      raise ConfigError(
        f"the processes of this job differ from process 0:\n{problem}\nStart"
        " all of them by the same command, on the same software."
      )

  def agree_on_step(self, step: int, timeout: float = 30.0) -> int:
    """Returns the largest step that any process has begun; all must call it."""
    steps = self.gather("stop", step, timeout)
    return self.broadcast("stop_at", steps and max(steps), timeout)

  def fail(self, message: str, code: int) -> None:
    """Ends this process, and thereby all processes, because of an error.

    Prints the message, unless another process failed before and has printed its
    own.
    """
    with self._leaving:  # Two threads may fail at the same time.
      try:
        word = {"process": self._index, "code": code, "host": self._host}
        self._say("word/error", word, once=True)
      except jax.errors.JaxRuntimeError:
        # Another process failed first: `_listen` says so and leaves.
        time.sleep(_LINGER)
        self.leave(code)
      self._print(message)
      self.leave(code)

  def leave(self, code: int) -> None:
    """Ends this process at once, without JAX's barrier at exit.

    Process 0 waits for the others to leave first: JAX aborts a process that
    loses its connection to process 0.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._say(f"left/{self._index}", code)
      end = time.monotonic() + _LINGER
      while self._index == 0 and time.monotonic() < end:
        if len(self._client.key_value_dir_get("sslx/left/")) == self._count:
          break
        time.sleep(0.1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

  def close(self) -> None:
    """Reports that this process is done, so that it does not count as lost."""
    self._closed.set()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      done = {"n": -1, "step": -1, "phase": _DONE, "host": self._host}
      self._say(f"at/{self._index}", done)

  def _print(self, message: str) -> None:
    print(f"\nerror: {message}", file=sys.stderr, flush=True)
