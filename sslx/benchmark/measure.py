"""Measures work on chosen cores, alternating, with medians over rounds."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from sslx.axis import Axis
from sslx.data import views as views_lib
from sslx.data.pipeline import Data
from sslx.parallel import Parallel, Partitioner
from sslx.step import TrainStep

CORES = sorted(os.sched_getaffinity(0))


def pin(cores: int) -> None:
  """Pins every thread of this process to `cores` of its cores."""
  # The last cores, because the first one handles most interrupts.
  chosen = CORES[-cores:]
  for thread in os.listdir("/proc/self/task"):
    with contextlib.suppress(ProcessLookupError):  # The thread has just ended.
      os.sched_setaffinity(int(thread), chosen)


def in_turns(
  work: dict[str, Callable[[int], Any]],
  rounds: int,
  *,
  clock: Callable[[], float] = time.process_time,
  least: float = 0.0,
) -> dict[str, list[float]]:
  """Measures the seconds per call of several functions, alternating.

  Every round calls each function, so that a slowdown of the machine affects all
  of them. One extra round at the beginning, for compilation and caches, is not
  counted.

  Args:
    work: functions by name, called with the number of the round, from 0.
    rounds: number of rounds that are counted.
    clock: core time of this process by default, which other processes on the
      machine affect little, and which excludes waiting, e.g. for a disk.
    least: minimum seconds of a measurement; a faster call is repeated.

  Returns:
    For each function, its seconds per call in every round.
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
  """Formats the median, minimum and maximum."""
  low, median, high = min(values), statistics.median(values), max(values)
  return f"{median:10,.1f}  ({low:,.1f} to {high:,.1f})"


def device_part(data: Data) -> tuple[Callable, Callable]:
  """The part of the input that runs on one device, as in training.

  Args:
    data: config section.

  Returns:
    A function that turns a host batch into device arrays, and a compiled
    function that turns these into normalised views.
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
  """The device's name in messages, for a process that is pinned to one core."""
  return "core of this CPU" if on_cpu() else jax.devices()[0].device_kind
