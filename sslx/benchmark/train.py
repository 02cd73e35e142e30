"""Measures the speed of training: bare step, full loop, and startup time.

Bare step and full loop are measured alternating, so that a slowdown of the
machine affects both.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time

import jax
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import experiment as experiment_lib
from sslx import metrics, train
from sslx.benchmark import work
from sslx.job import Job
from sslx.progress import Progress

_STARTED = "SSLX_BENCHMARK_STARTED"


def bench_train(config: ConfigDict, steps: int, rounds: int) -> None:
  """Prints the work of the step, and the speeds of the step and the full loop.

  Args:
    config: the config of a run, with all its sections.
    steps: number of steps per round, of each of the two.
    rounds: number of rounds; medians over them are printed.
  """
  experiment = experiment_lib.build(config)
  batch_size = experiment.data.batch_size
  needed = (rounds + 1) * steps
  if experiment.total_steps < needed:
    raise config_lib.ConfigError(
      f"config.schedule says {experiment.schedule.length}, which are"
      f" {experiment.total_steps} steps; this benchmark takes {needed}. Make"
      " the run longer, or lower --steps or --rounds."
    )
  train_step = work.compile_step(experiment)
  print(*work.report(experiment, train_step), sep="\n")
  log = metrics.Log(
    None,
    Progress(io.StringIO()),
    every=experiment.runtime.log_every,
    total=experiment.total_steps,
    steps_per_epoch=experiment.order.steps_per_epoch,
    batch_size=batch_size,
  )
  with contextlib.closing(experiment.batches()) as batches:
    resident = next(batches)
    bare = experiment.init_state()
    loop = train.steps(
      train_step, experiment.init_state(), batches, log, 0, needed, Job()
    )
    seconds = {"bare step": [], "full loop": []}
    for turn in range(rounds + 1):
      began = time.perf_counter()
      for _ in range(steps):
        bare, scalars = train_step(bare, resident)
      jax.block_until_ready(scalars)
      middle = time.perf_counter()
      for _ in range(steps):
        _, state = next(loop)
      jax.block_until_ready(state.step)
      if turn:  # The first round compiles and fills the queues.
        seconds["bare step"].append(middle - began)
        seconds["full loop"].append(time.perf_counter() - middle)
  for name, times in seconds.items():
    median = statistics.median(times)
    print(
      f"{name}: {batch_size * steps / median:,.1f} images/s"
      f" ({median / steps * 1e3:.1f} ms a step, median of {rounds})"
    )
  ratios = [b / f for b, f in zip(*seconds.values(), strict=True)]
  print(
    f"full loop / bare step: {statistics.median(ratios):.3f}"
    f" (from {min(ratios):.3f} to {max(ratios):.3f})"
  )


def bench_startup(arguments: list[str]) -> None:
  """Prints the time to the end of the first step, cold and with a cache.

  Args:
    arguments: the `--config...` arguments of this command line.
  """
  with tempfile.TemporaryDirectory() as cache:
    for name in ("cold", "with the compilation cache"):
      environment = {
        **os.environ,
        _STARTED: str(time.time()),
        "JAX_COMPILATION_CACHE_DIR": cache,
      }
      result = subprocess.run(
        [sys.executable, "-m", "sslx.benchmark", "first_step", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
      )
      if result.returncode:
        sys.exit(result.stderr)
      print(f"start to first step, {name}: {result.stdout.strip()} s")


def first_step(config: ConfigDict) -> None:
  """Takes one step; prints the seconds since the parent started the process."""
  experiment = experiment_lib.build(config)
  with contextlib.closing(experiment.batches()) as batches:
    step = experiment.compiled_step()
    jax.block_until_ready(step(experiment.init_state(), next(batches)))
  print(f"{time.time() - float(os.environ[_STARTED]):.1f}")
