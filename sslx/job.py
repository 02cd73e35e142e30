"""One process of a job: handles signals, detects stalls, and ends cleanly.

On SIGTERM, SIGINT (Ctrl-C) or SIGHUP, the run saves and ends with exit code
128 + signal. A second signal ends the process at once. The training loop
reports its phase by `at`, and a thread checks that it makes progress. That
thread also receives signals while the main thread is inside XLA, where Python
runs no signal handlers.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

import jax

from sslx.errors import RESTART
from sslx.lock import RENEW_EVERY, Lock
from sslx.peers import Peers

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# The stall timeout of compilation, evaluation and reading a checkpoint is this
# many times that of a step.
_SLOW = 6
_TICK = 0.5  # seconds
# A launcher and its shell often both forward a signal. Within this time, a
# repeated signal counts as the same one.
_SAME_SIGNAL = 1.0  # seconds


@dataclasses.dataclass(frozen=True)
class Phase:
  """The current activity of the main thread.

  Attributes:
    name: description in a few words.
    slow: whether it may take long.
    finish: completes work in progress, such as a save. After that, the process
      can end at any moment of this phase without loss. None if it cannot.
    began: start, on the clock of `time.monotonic`.
  """

  name: str
  slow: bool = False
  finish: Callable[[], None] | None = None
  began: float = dataclasses.field(default_factory=time.monotonic)


class Job:
  """This process's part in a job; a context manager.

  Within the context it handles signals and watches for stalls.
  """

  def __init__(
    self, peers: Peers | None = None, stall_timeout: float | None = None
  ):
    """Stores the settings; handles no signals yet.

    Args:
      peers: the other processes, if there are any.
      stall_timeout: seconds that a step, a batch or a save may take; None for
        no limit.
    """
    self.peers = peers
    self.lock: Lock | None = None  # Lock of the workdir; renewed here.
    self._limit = stall_timeout
    self._phase = Phase("starting", slow=True, finish=lambda: None)
    self._step = 0
    self._mutex = threading.Lock()
    self._asked: tuple[int, float] | None = None  # signal, time
    self._stop: tuple[int, int] | None = None  # signal, step
    self._ending = self._closed = False
    self._handlers = {}

  def __enter__(self) -> Job:
    self._hears, self._wakes = os.pipe()
    os.set_blocking(self._wakes, False)
    signal.set_wakeup_fd(self._wakes)
    for signum in SIGNALS:
      # Keep ignoring signals that nohup, or a shell that starts a background
      # job, has set to be ignored.
      if signal.getsignal(signum) != signal.SIG_IGN:
        self._handlers[signum] = signal.signal(signum, lambda *_: None)
    self._thread = threading.Thread(target=self._run, daemon=True, name="job")
    self._thread.start()
    if self.peers:
      self.peers.start(self._where, self._agree)
    return self

  def __exit__(self, *_) -> None:
    self._closed = True
    if self.peers:
      self.peers.close()
    self._thread.join()
    signal.set_wakeup_fd(-1)
    for signum, handler in self._handlers.items():
      signal.signal(signum, handler)
    os.close(self._wakes)
    os.close(self._hears)

  def at(
    self,
    name: str,
    *,
    step: int | None = None,
    slow: bool = False,
    finish: Callable[[], None] | None = None,
  ) -> None:
    """Reports what the main thread does from now on.

    Args:
      name: description in a few words.
      step: steps taken, if the number has changed.
      slow: whether it may take long.
      finish: see `Phase`.
    """
    phase = Phase(name, slow, finish)
    with self._mutex:  # Waits while the processes agree on a step.
      self._phase = phase
      self._step = self._step if step is None else step

  def stopping(self, step: int) -> int | None:
    """Returns the signal that ends the run after this step, or None.

    All processes get the same answer at the same step.

    Args:
      step: number of the last step that was started.
    """
    with self._mutex:
      self._step = step
      # A process may be one step ahead of the step that it last reported.
      stops = self._stop is not None and step > self._stop[1]
      return self._stop[0] if stops else None

  def fail(self, message: str, code: int = 1) -> None:
    """Ends the job because of an error, in all processes; does not return."""
    if self.peers:
      self.peers.fail(message, code)
    print(f"\nerror: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)

  def crash(self, error: Exception, patience: float) -> None:
    """Ends the job because of an unexpected error; does not return.

    Args:
      error: the error, with its traceback.
      patience: seconds to wait for the cause, if it may be in another process:
        when a process dies, the collectives of the others fail.
    """
    is_collective = isinstance(error, jax.errors.JaxRuntimeError)
    if self.peers and is_collective and "RESOURCE_EXHAUSTED" not in str(error):
      print(
        f"{str(error).splitlines()[0]}\nWaiting up to {patience:.0f} s to learn"
        " whether another process was lost.",
        file=sys.stderr,
        flush=True,
      )
      time.sleep(patience)  # If one was lost, `peers` ends this process.
    text = "".join(traceback.format_exception(error))
    self.fail(f"not expected, please report it:\n{text}")

  def _where(self) -> tuple[int, str, int | None]:
    phase = self._phase
    seconds = time.monotonic() - phase.began
    signum = self._asked[0] if self._asked else None
    return self._step, f"{phase.name} ({seconds:.0f} s)", signum

  def _run(self) -> None:
    try:
      last = renewed = time.monotonic()
      while not self._closed:
        if select.select([self._hears], [], [], _TICK)[0]:
          for signum in os.read(self._hears, 64):
            self._hear(signum)
        now = time.monotonic()
        if now - last > 20 * _TICK:
          # This process itself was suspended, as by Ctrl-Z: not a stall.
          began = self._phase.began + now - last
          self._phase = dataclasses.replace(self._phase, began=began)
        last = now
        self._end_if_settled()
        self._end_if_stalled(now)
        if self.lock and now - renewed > RENEW_EVERY:
          renewed = now
          self.lock.renew()
    except Exception as error:  # A helper thread must not die unnoticed.
      self.fail(f"{type(error).__name__}: {error}")

  def _hear(self, signum: int) -> None:
    if signum not in self._handlers:
      return
    if self._asked is None:
      self._asked = signum, time.monotonic()
      name = signal.Signals(signum).name
      print(
        f"\n{name}: saves, then ends. A second one ends at once.", flush=True
      )
      if self.peers is None:
        self._agree(signum)
    elif time.monotonic() - self._asked[1] > _SAME_SIGNAL:
      os._exit(128 + signum)

  def _agree(self, signum: int) -> None:
    """Agrees with the other processes on the step after which all stop."""
    with self._mutex:
      if self._stop is None:
        step = self._step
        if self.peers:
          step = self.peers.agree_on_step(step)
        self._stop = signum, step

  def _end_if_settled(self) -> None:
    """Ends the process in a phase that can end without loss.

    For example, during an evaluation.
    """
    if self._stop and not self._ending and self._phase.finish:
      self._ending = True
      # In a thread, because a save may take long, and a second signal must
      # still be handled.
      threading.Thread(target=self._end, daemon=True, name="ending").start()

  def _end(self) -> None:
    try:
      with self._mutex:  # Keeps the main thread in its phase.
        phase, (signum, step) = self._phase, self._stop
        if not phase.finish or self._step < step:
          self._ending = False  # The main thread has moved on and ends itself.
          return
        phase.finish()
        print(
          f"ended by {signal.Signals(signum).name} while {phase.name}; nothing"
          " is lost",
          flush=True,
        )
        if self.peers:
          self.peers.leave(128 + signum)
        sys.stdout.flush()
        os._exit(128 + signum)
    except Exception as error:  # A helper thread must not die unnoticed.
      self.fail(f"{type(error).__name__}: {error}")

  def _end_if_stalled(self, now: float) -> None:
    phase = self._phase
    limit = (self._limit or 0) * (_SLOW if phase.slow else 1)
    if not limit or now - phase.began <= limit:
      return
    print("\nThe stacks of all threads:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
    where = f"\n{self.peers.positions()}" if self.peers else ""
    self.fail(
      f"nothing has moved for {now - phase.began:.0f} s at step {self._step},"
      f" {phase.name}; the limit is {limit:g} s (--stall_timeout). The stacks"
      f" are above. Start the same command again to go on from the last"
      f" checkpoint.{where}",
      RESTART,
    )
