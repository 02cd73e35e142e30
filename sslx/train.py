"""The training loop: restore, step, log, evaluate, save."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import pathlib
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sslx import checkpoint, metrics, optim, parallel
from sslx import config as config_lib
from sslx.checkpoint import Checkpoints
from sslx.config import ConfigError
from sslx.data.pipeline import Batches
from sslx.experiment import Experiment, build
from sslx.state import TrainState
from sslx.weights import load

# Keys in which a run may differ from the one that it goes on from: they change
# where and how it runs, not what it computes.
MAY_CHANGE = (
  r"data\.(data_dir|prepare|threads|workers|max_bad)|schedule\.accumulate|"
  r"runtime\.(?!seed$|evaluate\.probe).*"
)


def run(
  config: ConfigDict,
  workdir: str,
  *,
  overwrite: bool = False,
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
  """Trains to the end, from the newest checkpoint in the workdir if any.

  Args:
    config: four sections.
    workdir: folder for checkpoints, metrics and the config; made if absent.
    overwrite: throw away what the workdir holds, and start anew.
    devices: to run on; all by default.

  Returns:
    The scalars of the last evaluation; none if there was nothing left to do.

  Raises:
    ConfigError: the config cannot run, or the workdir holds another run.
    CheckpointError: a checkpoint could not be read or written.
    NotFiniteError: the loss or its gradient became NaN or infinite.
  """
  workdir = pathlib.Path(workdir)
  progress = metrics.Progress()
  experiment = build(config, devices)
  claim_workdir(workdir, config, overwrite, progress.note)

  checkpoints = Checkpoints(
    workdir / "checkpoints",
    experiment.runtime.checkpoint,
    experiment.order.steps_per_epoch,
    {"config": config_lib.fingerprint(config)},
  )
  with contextlib.closing(checkpoints):
    state = _start(experiment, checkpoints, progress.note)
    first = int(parallel.to_host(state.step))
    writer = None
    if parallel.is_main_process():
      writer = metrics.Writer(workdir, first, config_lib.fingerprint(config))
      for note in (*experiment.notes, _overview(experiment, workdir)):
        progress.note(note)
    try:
      results = _loop(experiment, state, checkpoints, writer, progress)
    except metrics.NotFiniteError as error:
      good = checkpoints.latest()
      kept = f"step {good} in {checkpoints.directory}" if good else "none yet"
      error.args = (f"{error} Last good checkpoint: {kept}.",)
      raise
    finally:
      if writer:
        writer.close()
  if parallel.is_main_process():
    progress.note(_summary(workdir, experiment.runtime.evaluate.knn.k[0]))
    progress.note(f"finished: {experiment.total_steps} steps, in {workdir}")
  return results


def _start(
  experiment: Experiment,
  checkpoints: Checkpoints,
  note: Callable[[str], None],
) -> TrainState:
  """The state: resumed, from another run, or from scratch."""
  restored = checkpoints.restore(experiment.abstract_state)
  if restored is not None:
    state, data_state = restored
    step = int(parallel.to_host(state.step))
    # One batch a step, in an order that the seed gives: they cannot differ.
    if data_state != {"next_index": step}:
      raise checkpoint.CheckpointError(
        f"the checkpoint of step {step} in {checkpoints.directory} says that"
        f" the data is at {data_state}. It was not written by this version;"
        " start anew with --overwrite or another --workdir."
      )
    note(f"resumed from step {step}")
    return state
  state = experiment.init_state()
  source = experiment.runtime.init_from
  if source is not None:
    state, notes = load.start(
      source, experiment.step.method, state, experiment.abstract_state
    )
    note("\n  ".join(notes))
  return state


def _loop(
  experiment: Experiment,
  state: TrainState,
  checkpoints: Checkpoints,
  writer: metrics.Writer | None,
  progress: metrics.Progress,
) -> dict[str, float]:
  runtime, total = experiment.runtime, experiment.total_steps
  steps_per_epoch = experiment.order.steps_per_epoch
  evaluate_every = max(
    1, round(runtime.evaluate.every_epochs * steps_per_epoch)
  )
  log = metrics.Log(
    writer,
    progress,
    every=runtime.log_every,
    total=total,
    steps_per_epoch=steps_per_epoch,
    batch_size=experiment.data.batch_size,
  )

  def evaluate(step: int, state: TrainState) -> dict[str, float]:
    log.flush()
    began = time.perf_counter()
    results = experiment.online.run(state)
    if step == 0 and runtime.evaluate.pixels:
      results |= experiment.online.run_pixels()
    pictures = experiment.online.pictures(state)
    if writer:
      for name, picture in pictures.items():
        writer.write_picture(step, name, picture)
      writer.write(step, {f"eval/{k}": v for k, v in results.items()})
      writer.flush()
      progress.note(
        f"evaluation at step {step}: "
        + "  ".join(f"{k} {v:.4g}" for k, v in results.items())
      )
    log.pause(time.perf_counter() - began)
    return results

  first = int(parallel.to_host(state.step))
  results = evaluate(0, state) if first == 0 else {}
  batches = experiment.batches(first, progress.note)
  with contextlib.closing(batches), _termination() as terminated:
    train_step = experiment.compiled_step()
    after = steps(train_step, state, batches, log, first, total)
    for step, state in after:
      last = step == total
      if last or step % evaluate_every == 0:
        results = evaluate(step, state)
      # After the evaluation, so that a run killed in between repeats it.
      stop = terminated(step)
      if last or stop or step % checkpoints.every == 0:
        log.flush()  # A state that is not finite is never saved.
        checkpoints.save(step, state, batches.state)
      if stop and not last:
        checkpoints.wait()
        progress.note(f"terminated; step {step} is saved")
        raise SystemExit(128 + signal.SIGTERM)
  checkpoints.wait()
  return results


def steps(
  train_step: Callable,
  state: TrainState,
  batches: Batches,
  log: metrics.Log,
  first: int,
  total: int,
) -> Iterator[tuple[int, TrainState]]:
  """The inner loop: takes steps `first + 1` to `total`.

  Yields:
    Number and state after each step, which may still be running. The state is
    donated to the next step.
  """
  running = collections.deque()
  for step in range(first + 1, total + 1):
    asked = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - asked
    state, step_metrics = train_step(state, batch)
    log.add(step, step_metrics, waited, batches.replaced)
    # The host may run ahead of the devices, but each step that waits holds a
    # batch in their memory.
    running.append(step_metrics["loss"])
    if len(running) > 2:
      jax.block_until_ready(running.popleft())
    yield step, state


@contextlib.contextmanager
def _termination() -> Iterator[Callable[[int], bool]]:
  """Whether this run was told to end: a function of the step.

  One process listens to SIGTERM itself. Of several, JAX's preemption service
  listens, and all see the same answer at the same step.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  received = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield lambda step: False  # Only the main thread may listen to signals.
    return
  before = signal.signal(signal.SIGTERM, lambda *_: received.set())
  try:
    yield lambda step: received.is_set()
  finally:
    signal.signal(signal.SIGTERM, before)


def claim_workdir(
  workdir: pathlib.Path,
  config: ConfigDict,
  overwrite: bool,
  note: Callable[[str], None],
) -> None:
  """Makes the workdir this run's: new, emptied, or one to go on with.

  Raises:
    ConfigError: it holds another run, or something that is not a run.
  """
  if parallel.is_main_process():
    saved = workdir / "config.json"
    if overwrite and saved.exists():
      for name in ("checkpoints", "tensorboard", "reconstructions"):
        if (workdir / name).exists():
          shutil.rmtree(workdir / name)
      for name in ("metrics.jsonl", "config.json"):
        (workdir / name).unlink(missing_ok=True)
    ways_out = "Give another --workdir, or throw this one away by --overwrite."
    text = config_lib.to_json(config)
    if saved.exists():
      changed = config_lib.differences(
        json.loads(saved.read_text()), json.loads(text)
      )
      lines = [
        f"  config.{key}: {old!r} there, {new!r} now"
        for key, (old, new) in changed.items()
      ]
      if any(not re.fullmatch(MAY_CHANGE, key) for key in changed):
        raise ConfigError(
          f"{workdir} holds a run with another config:\n"
          + "\n".join(lines)
          + f"\n{ways_out}"
        )
      if lines:
        note("going on with a changed config:\n" + "\n".join(lines))
    elif (workdir / "checkpoints").exists():
      raise ConfigError(
        f"{workdir} has checkpoints but no config.json, so it cannot be"
        " known what they are of. Give another --workdir."
      )
    workdir.mkdir(parents=True, exist_ok=True)
    new = saved.with_suffix(".tmp")
    new.write_text(text)
    new.replace(saved)  # At once: a kill leaves no half of it.
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("workdir")


def _overview(experiment: Experiment, workdir: pathlib.Path) -> str:
  state, data = experiment.abstract_state, experiment.data
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
  mesh, spread = experiment.partitioner.mesh, experiment.partitioner.num_devices
  sizes = " x ".join(f"{n} {axis}" for axis, n in mesh.shape.items())
  parallel_ = experiment.runtime.parallel
  return (
    f"{type(experiment.step.method).__name__}, {count:,} parameters, on"
    f" {data.source}: {len(experiment.train):,} images\n"
    f"{experiment.schedule.epochs} epochs of"
    f" {experiment.order.steps_per_epoch} steps, batch {data.batch_size} ="
    f" {spread} x {data.batch_size // spread}"
    f" ({mesh.devices.flat[0].device_kind}, {parallel_.mode},"
    f" {parallel_.rules}{', mesh ' + sizes if len(mesh.shape) > 1 else ''})\n"
    f"peak learning rate"
    f" {optim.peak_lr(experiment.schedule.optimizer, data.batch_size):.4g};"
    f" workdir {workdir}"
  )


def _summary(workdir: pathlib.Path, k: int) -> str:
  """What was learnt, against no training and no encoder at all."""
  rows = [r for r in metrics.read(workdir) if f"eval/knn_{k}" in r]
  if not rows:
    return "no kNN accuracy: the data has no labels to evaluate with"
  first, last = rows[0], rows[-1]
  final = 100 * last[f"eval/knn_{k}"]
  lines = [f"kNN accuracy (k={k}) after training: {final:.1f} %"]
  for name, key in (
    ("untrained encoder", f"eval/knn_{k}"),
    ("raw pixels", f"eval/pixels_knn_{k}"),
  ):
    if first["step"] == 0 and key in first:
      base = 100 * first[key]
      lines.append(f"  {name}: {base:.1f} % ({final - base:+.1f} points)")
  return "\n".join(lines)
