"""What a config describes, with the functions and arrays that a run takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from sslx import settings
from sslx.data import crops, loader, pipeline, sets
from sslx.data.order import Order
from sslx.data.sets import Images
from sslx.epoch import EpochStart
from sslx.evaluate.online import Online
from sslx.parallel import Partitioner
from sslx.state import TrainState
from sslx.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a config describes, built and checked; not yet running.

  Attributes:
    data: config section `data`.
    schedule: config section `schedule`.
    runtime: config section `runtime`.
    partitioner: devices and shardings.
    order: decides which examples are in which batch.
    train: the set to train on.
    test: the set to evaluate on, or None.
    notes: messages to the user about how the config was interpreted.
    online: the evaluators.
    epoch_start: renews the method's buffers before each epoch; None if the
      method does not define `on_epoch`.
    step: the training step, before compilation.
    abstract_state: the state as ShapeDtypeStructs with shardings.
  """

  data: pipeline.Data
  schedule: settings.Schedule
  runtime: settings.Runtime
  partitioner: Partitioner
  order: Order
  train: Images
  test: Images | None
  notes: tuple[str, ...]
  online: Online
  epoch_start: EpochStart | None
  step: TrainStep
  abstract_state: TrainState

  @property
  def total_steps(self) -> int:
    """Number of optimiser steps of the run."""
    return len(self.order)

  @property
  def decoder(self) -> str | None:
    """Name of the image decoder; None for images in memory."""
    return None if isinstance(self.train, sets.Arrays) else crops.decoder()

  @property
  def state_shardings(self) -> TrainState:
    """The sharding of every array of the state."""
    return jax.tree.map(lambda x: x.sharding, self.abstract_state)

  def init_state(self) -> TrainState:
    """Returns the state of step 0, created directly in its shardings."""
    # On CPU, LLVM would take longer to optimise the drawing of each parameter
    # than to compile the step.
    options = {"xla_backend_optimization_level": 0}
    on_cpu = self.partitioner.mesh.devices.flat[0].platform == "cpu"
    init = jax.jit(
      self.step.init,
      out_shardings=self.state_shardings,
      compiler_options=options if on_cpu else None,
    )
    return init(jax.random.key(self.runtime.seed))

  @property
  def abstract_batch(self) -> dict[str, Any]:
    """ShapeDtypeStructs of a global batch, with shardings; reads no data."""
    shapes = loader.shapes(
      self.train, self.data.batch_size, self.data.views, self.step.slots
    )
    return jax.tree.map(
      lambda x: x.update(sharding=self.partitioner.batch), shapes
    )

  def check_host(self) -> None:
    """Checks that this host has enough shared memory for its data workers.

    Raises:
      ConfigError: worker processes could not pass on their batches.
    """
    rows = len(self.partitioner.local_rows(self.data.batch_size))
    if not isinstance(self.train, sets.Arrays):
      batch = loader.shapes(self.train, rows, self.data.views, self.step.slots)
      pipeline.check_workers(batch, self.data.workers)

  def compiled_step(self) -> Callable:
    """Returns the jitted step, `(state, batch) -> (state, metrics)`.

    It donates the state.
    """
    return self.partitioner.compile(self.step, self.state_shardings)

  def host_batches(self, start: int = 0) -> Iterator[loader.HostBatch]:
    """Yields this process's rows of the batches, as numpy arrays."""
    return pipeline.host_batches(
      self.train,
      self.order,
      self.partitioner.local_rows(self.data.batch_size),
      self.data,
      slots=self.step.slots,
      start=start,
    )

  def batches(
    self,
    start: int = 0,
    on_bad: Callable[[str], None] = print,
  ) -> pipeline.Batches:
    """Returns an iterator over batches on the devices.

    Args:
      start: number of the first batch.
      on_bad: called once for each image that cannot be decoded.

    Raises:
      ConfigError: more images cannot be decoded than `config.data.max_bad`
        allows. Raised when a batch is taken.
    """

    def report(index: int, reason: str) -> None:
      on_bad(
        f"{self.train.name(index)} cannot be decoded ({reason}); its neighbour"
        " takes its place"
      )
      self.data.check_bad(
        len(batches.bad), len(self.train), self.train.name(index)
      )

    batches = pipeline.Batches(
      self.host_batches(start),
      self.partitioner.put,
      start=start,
      on_bad=report,
    )
    return batches
