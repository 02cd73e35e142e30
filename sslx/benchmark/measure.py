"""How the input is measured: on chosen cores, in turns, by medians."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from sslx.data import views as views_lib
from sslx.data.pipeline import Data
from sslx.parallel import Axis, Parallel, Partitioner
from sslx.step import TrainStep

CORES = sorted(os.sched_getaffinity(0))


def pin(cores: int) -> None:
  """Keeps every thread of this process on so many of its cores."""
  # The last ones: the first is where most interrupts are handled.
  chosen = CORES[-cores:]
  for thread in os.listdir("/proc/self/task"):
    with contextlib.suppress(ProcessLookupError):  # It has just ended.
      os.sched_setaffinity(int(thread), chosen)


def in_turns(
  work: dict[str, Callable[[int], Any]],
  rounds: int,
  *,
  clock: Callable[[], float] = time.process_time,
  least: float = 0.0,
) -> dict[str, list[float]]:
  """Seconds that a call takes, in each round.

  In every round each has its turn, so that a machine that slows down does so
  for all. A round before the first, for compilation and caches, is not counted.

  Args:
    work: called with the number of the round, from 0.
    rounds: how many are counted.
    clock: core time of this process by default, so that other processes on the
      machine count little; waiting, as for a disk, does not count at all.
    least: seconds; a call that is over sooner is made again until they passed.
  """
  seconds = {name: [] for name in work}
  for turn in (0, *range(rounds)):
    for name, call in work.items():
      calls, elapsed, began = 0, -1.0, clock()
      while elapsed < least:
        call(turn)
        calls, elapsed = calls + 1, clock() - began
      seconds[name].append(elapsed / calls)
  return {name: times[1:] for name, times in seconds.items()}


def spread(values: list[float]) -> str:
  """Median, and the least and greatest."""
  low, median, high = min(values), statistics.median(values), max(values)
  return f"{median:10,.1f}  ({low:,.1f} to {high:,.1f})"


def device_part(data: Data) -> tuple[Callable, Callable]:
  """The part of the input that one device has, as in training.

  Args:
    data: config section.

  Returns:
    A function that makes device arrays of a host batch, and a compiled one
    that makes normalised views of those.
  """
  partitioner = Partitioner.create(Parallel(), jax.devices()[:1])
  step = TrainStep(
    method=None,
    optimizer=None,
    learning_rate=None,
    probe=None,
    views=data.views,
    slots=views_lib.unshuffled(len(views_lib.each(data.views))),
    mean=data.mean,
    std=data.std,
  )
  key = jax.random.key(0)
  preprocess = jax.jit(lambda batch: step.preprocess(batch, key, Axis()))
  return partitioner.put, preprocess


def on_cpu() -> bool:
  """Whether the device is a CPU."""
  return jax.devices()[0].platform == "cpu"


def one_device() -> str:
  """What the device is called, of a process that is pinned to one core."""
  return "core of this CPU" if on_cpu() else jax.devices()[0].device_kind
