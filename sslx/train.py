"""The training loop: restore, step, log, evaluate, save."""

from __future__ import annotations

import collections
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from sslx import (
  agree,
  boards,
  card,
  metrics,
  parallel,
  resume,
  storage,
  summary,
  tracing,
)
from sslx import config as config_lib
from sslx.checkpoint import Checkpoints
from sslx.data.fingerprint import Fingerprint
from sslx.data.pipeline import Batches
from sslx.experiment import Experiment, build
from sslx.job import Job
from sslx.peers import Peers
from sslx.progress import Progress
from sslx.state import TrainState
from sslx.weights import load


def run(
  config: ConfigDict,
  workdir: str | os.PathLike,
  *,
  overwrite: bool = False,
  devices: Sequence[jax.Device] | None = None,
  job: Job | None = None,
) -> dict[str, float]:
  """Trains to the end; resumes from the newest checkpoint in the workdir.

  Args:
    config: the whole config, with its four sections.
    workdir: folder for checkpoints, metrics and the config; created if absent.
      A local path, or a URL such as gs://bucket/run.
    overwrite: whether to delete the run in the workdir and start from scratch.
    devices: devices to run on; all by default.
    job: handles signals, watches for stalls and connects to the other
      processes; by default, signals and stalls are not handled.

  Returns:
    The scalars of the last evaluation; empty if there was nothing left to do.

  Raises:
    ConfigError: the config cannot run, or the workdir holds another run.
    RunError: the workdir is in use or is not a run's, a file or checkpoint
      could not be read or written, or the loss or its gradient became NaN or
      infinite.
  """
  if job is None:
    several = jax.process_count() > 1
    job = Job(Peers(heartbeat_timeout=60) if several else None)
  workdir = storage.path(workdir, "--workdir")
  progress = Progress()
  agree.check_processes(job, config)
  experiment = build(config, devices)
  experiment.check_host()
  if parallel.is_main_process():
    boards.check(experiment.runtime.boards)
  agree.claim(job, workdir, config, overwrite, progress.note)
  try:
    return _run(experiment, config, workdir, job, progress)
  finally:
    if job.lock:
      lock, job.lock = job.lock, None
      lock.release()


def _run(
  experiment: Experiment,
  config: ConfigDict,
  workdir: epath.Path,
  job: Job,
  progress: Progress,
) -> dict[str, float]:
  """Does `run` in a workdir that this job has claimed."""
  config_hash = config_lib.fingerprint(config)
  job.at("looking through the data", slow=True, finish=lambda: None)
  data = agree.on_data(job, experiment)
  checkpoints = Checkpoints(
    workdir / "checkpoints",
    experiment.runtime.checkpoint,
    experiment.order.steps_per_epoch,
    {"config": config_hash, "data": data, "decoder": experiment.decoder},
  )
  with contextlib.closing(checkpoints):
    job.at("restoring", slow=True, finish=lambda: None)
    state, resumed = _start(experiment, checkpoints, data, progress.note)
    first = int(parallel.to_host(state.step))
    try:
      with contextlib.ExitStack() as stack:
        writer = None
        if parallel.is_main_process():
          facts = card.of_run(experiment, config)
          writer = stack.enter_context(
            _closing(
              metrics.Writer(
                workdir,
                first,
                config_hash,
                resumed=resumed,
                boards=experiment.runtime.boards,
                note=progress.note,
              )
            )
          )
          notes = *experiment.notes, summary.of_start(experiment, workdir)
          for note in notes:
            progress.note(note)
          card.write(workdir, facts)
        evaluated = agree.is_evaluated(job, workdir, first, progress.note)
        results = _loop(
          experiment, state, evaluated, checkpoints, writer, progress, job
        )
    except (metrics.NotFiniteError, storage.StorageError) as error:
      error.args = (f"{error} Last good checkpoint: {checkpoints.good()}.",)
      raise
  if parallel.is_main_process():
    card.write(workdir, facts)
    knn = experiment.runtime.evaluate.knn
    progress.note(summary.of_end(workdir, knn.k[0] if knn else None))
    progress.note(f"finished: {experiment.total_steps} steps, in {workdir}")
  return results


@contextlib.contextmanager
def _closing(writer: metrics.Writer) -> Iterator[metrics.Writer]:
  """Closes the writer; an error in closing does not hide an earlier error."""
  try:
    yield writer
  except BaseException:
    with contextlib.suppress(storage.StorageError):
      writer.close()
    raise
  writer.close()


def _start(
  experiment: Experiment,
  checkpoints: Checkpoints,
  data: dict[str, Fingerprint],
  note: Callable[[str], None],
) -> tuple[TrainState, bool]:
  """Restores or initialises the state.

  Returns:
    The state; and True if it was restored from a checkpoint of this run, False
    if it is new or starts from other weights.
  """
  restored = checkpoints.restore(experiment.abstract_state, note)
  if restored is not None:
    state, data_state = restored
    step = int(parallel.to_host(state.step))
    where = f"the checkpoint of step {step} in {checkpoints.directory}"
    resume.check_order(data_state, step, where)
    metadata = checkpoints.metadata(step)
    resume.check_data(experiment, metadata, data, step, note)
    note(f"resumed from step {step}")
    return state, True
  state = experiment.init_state()
  source = experiment.runtime.init_from
  if source is not None:
    state, notes = load.start(
      source, experiment.step.method, state, experiment.abstract_state
    )
    note("\n  ".join(notes))
  return state, False


def _loop(
  experiment: Experiment,
  state: TrainState,
  evaluated: bool,
  checkpoints: Checkpoints,
  writer: metrics.Writer | None,
  progress: Progress,
  job: Job,
) -> dict[str, float]:
  """Trains from `state`; `evaluated` is whether it was already evaluated."""
  runtime, total = experiment.runtime, experiment.total_steps
  steps_per_epoch = experiment.order.steps_per_epoch
  evaluate_every = max(
    1, round(runtime.evaluate.every_epochs * steps_per_epoch)
  )
  log = metrics.Log(
    writer,
    progress,
    every=min(runtime.log_every, steps_per_epoch),
    total=total,
    steps_per_epoch=steps_per_epoch,
    batch_size=experiment.data.batch_size,
    of_each_process=experiment.partitioner.of_each_process,
  )

  def evaluate(step: int, state: TrainState) -> dict[str, float]:
    began = time.perf_counter()
    # The state is already saved, so the process may end at any moment.
    job.at("evaluating", step=step, slow=True, finish=checkpoints.wait)
    results, pictures = experiment.online.run(state, progress.note)
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

  def begin(step: int, state: TrainState) -> TrainState:
    """Prepares for the step that follows `step`.

    A checkpoint of `step` is of before this, so it is the same after a resume.
    """
    if experiment.epoch_start is None or step % steps_per_epoch:
      return state
    log.flush()
    began = time.perf_counter()
    job.at("preparing the epoch", step=step, slow=True)
    state = jax.block_until_ready(experiment.epoch_start(state, progress.note))
    seconds = time.perf_counter() - began
    if writer:
      writer.write(step, {"on_epoch_seconds": seconds})
    log.pause(seconds)
    return state

  def save(step: int, state: TrainState) -> None:
    job.at("saving", step=step)
    if job.lock:
      job.lock.check()  # Else a save would recreate a deleted workdir.
    log.flush()  # A state that is not finite is never saved.
    checkpoints.save(step, state, batches.state)

  first = int(parallel.to_host(state.step))
  is_due = lambda step: step == total or step % evaluate_every == 0
  results = {}
  if is_due(first) and not evaluated:
    results = evaluate(first, state)
  batches = experiment.batches(first, progress.note)
  folder = epath.Path(checkpoints.directory).parent / "profile"
  trace = tracing.Trace(runtime.profile, first, folder, progress.note)
  with contextlib.closing(batches), trace:
    train_step = trace.of(experiment.compiled_step())
    after = steps(train_step, state, batches, log, first, total, job, begin)
    for step, state in after:
      stop = job.stopping(step)
      # Save before evaluating: an evaluation may take long and be interrupted.
      # A run that resumes here evaluates first.
      if stop or is_due(step) or step % checkpoints.every == 0:
        save(step, state)
      if stop and step < total:
        checkpoints.wait()
        progress.note(f"stopped by a signal; step {step} is saved")
        raise SystemExit(128 + stop)
      if is_due(step):
        results = evaluate(step, state)
  job.at("finishing the last save", finish=checkpoints.wait)
  checkpoints.wait()
  return results


def steps(
  train_step: Callable,
  state: TrainState,
  batches: Batches,
  log: metrics.Log,
  first: int,
  total: int,
  job: Job,
  begin: Callable[[int, TrainState], TrainState] = lambda step, state: state,
) -> Iterator[tuple[int, TrainState]]:
  """Takes steps `first + 1` to `total`: the inner loop.

  Before each step it calls `begin` with the number of steps taken.

  Yields:
    Number of the step and the state after it. The step may still be running.
    The state is donated to the next step.
  """
  running = collections.deque()
  for step in range(first + 1, total + 1):
    state = begin(step - 1, state)
    # Until the first step is compiled, the process can end without loss.
    nothing = (lambda: None) if step == first + 1 else None
    job.at("waiting for a batch", step=step - 1, finish=nothing)
    asked = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - asked
    if nothing:
      job.at("compiling the step", slow=True, finish=nothing)
    state, step_metrics = train_step(state, batch)
    # The first steps are slow: another process may still be compiling.
    job.at("training", step=step, slow=step <= first + 3)
    log.add(step, step_metrics, waited, batches.replaced)
    # The host may run ahead of the devices, but not far: each waiting step
    # holds a batch in device memory.
    running.append(step_metrics["loss"])
    if len(running) > 2:
      jax.block_until_ready(running.popleft())
    yield step, state
