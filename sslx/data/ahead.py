"""Makes what comes next in a thread, before it is needed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Ahead(Iterator):
  """What a function makes of each element; a thread makes it.

  An error in the thread is raised by `__next__`.
  """

  def __init__(
    self,
    make: Callable[[Any], Any],
    elements: Iterable,
    ahead: int,
    name: str,
  ):
    """Starts the thread.

    Args:
      make: called with each element, in the thread.
      elements: is iterated over, and closed, in the thread.
      ahead: number of results that may wait.
      name: name of the thread.
    """
    self._ready = queue.Queue(maxsize=ahead)
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._fill, args=(make, elements), daemon=True, name=name
    )
    self._thread.start()

  def _fill(self, make: Callable, elements: Iterable) -> None:
    try:
      for element in elements:
        self._offer((make(element), None))
        if self._closed.is_set():
          return
      self._offer((None, StopIteration()))
    except BaseException as error:  # Raised again in the consumer's thread.
      self._offer((None, error))
    finally:
      # Ends worker processes now, not when the garbage collector runs.
      getattr(elements, "close", lambda: None)()

  def _offer(self, item: tuple[Any, BaseException | None]) -> None:
    while not self._closed.is_set():
      try:
        return self._ready.put(item, timeout=0.1)
      except queue.Full:
        continue

  def __next__(self) -> Any:
    made, error = item = self._ready.get()
    if error is not None:
      self._ready.put(item)  # Later calls raise it again.
      raise error
    return made

  def close(self) -> None:
    """Ends the thread; nothing can be taken afterwards."""
    self._closed.set()
    self._thread.join()
