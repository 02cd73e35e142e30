"""Profiler traces of some training steps: `runtime.profile`.

XProf and TensorBoard's profile plugin read them (`--logdir <workdir>/profile`)
and list the processes as hosts. https://ui.perfetto.dev reads the
`.trace.json.gz` of one process at a time.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Callable

import jax
from etils import epath

from sslx import storage


class Trace(contextlib.AbstractContextManager):
  """Traces a span of steps, in every process; a context manager.

  Leaving the context ends the trace.
  """

  def __init__(
    self,
    span: tuple[int, int] | None,
    first: int,
    directory: epath.Path,
    note: Callable[[str], None] = lambda text: None,
  ):
    """Stores the settings; traces nothing yet.

    Args:
      span: the first step to trace and the number of steps; None for no trace.
      first: number of steps that the run has already taken.
      directory: folder to write to, on a disk or in a store; created if absent.
      note: called in the main process with the location of the trace.
    """
    start, count = span or (0, 0)
    self._steps = range(start, start + count)
    self._step = first
    self._directory = directory
    self._note = note
    self._folder: tempfile.TemporaryDirectory | None = None

  def of(self, train_step: Callable) -> Callable:
    """Wraps `train_step` to start and end the trace.

    Only the last traced step waits for the devices.

    Args:
      train_step: `(state, batch) -> (state, metrics)`; one call is one step.
    """
    if not self._steps:
      return train_step

    def traced(state, batch):
      self._step += 1
      if self._step not in self._steps:
        return train_step(state, batch)
      if self._folder is None:
        self._start()
      with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
        state, metrics = train_step(state, batch)
      if self._step == self._steps[-1]:
        jax.block_until_ready(metrics)
        self._stop()
      return state, metrics

    return traced

  def _start(self) -> None:
    self._folder = tempfile.TemporaryDirectory(prefix="sslx-trace-")
    options = jax.profiler.ProfileOptions()
    options.session_id = f"steps_{self._steps[0]}-{self._steps[-1]}"
    jax.profiler.start_trace(self._folder.name, profiler_options=options)

  def _stop(self) -> None:
    """Ends the trace, and writes it next to those of the other processes."""
    jax.profiler.stop_trace()
    with self._folder as folder:
      (made,) = pathlib.Path(folder).glob("plugins/profile/*")
      session = self._directory / made.relative_to(folder)
      storage.make_folder(session)
      # JAX names the files after the host, but a host may have several
      # processes.
      for suffix in (".xplane.pb", ".trace.json.gz"):
        (path,) = made.glob(f"*{suffix}")
        name = f"process_{jax.process_index()}{suffix}"
        storage.write(session / name, path.read_bytes())
    self._folder = None
    if jax.process_index() == 0:
      self._note(f"trace of steps {self._steps[0]} to {self._step}: {session}")

  def __exit__(self, *error) -> None:
    """Ends a trace in progress, if the run ends within the span."""
    if self._folder is not None:
      self._stop()
