"""Builds and checks everything that a config describes, before it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import methods, optim, settings
from sslx.data import crops, loader, pipeline, sets, sources
from sslx.data import views as views_lib
from sslx.data.order import Order
from sslx.data.sets import Images
from sslx.evaluate.online import Online
from sslx.evaluate.probe import OnlineProbe
from sslx.parallel import Partitioner
from sslx.state import TrainState
from sslx.step import TrainStep, example_batch


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
    notes: messages to the user about how the config was interpreted.
    online: the evaluators.
    step: the training step, before compilation.
    abstract_state: the state as ShapeDtypeStructs with shardings.
  """

  data: pipeline.Data
  schedule: settings.Schedule
  runtime: settings.Runtime
  partitioner: Partitioner
  order: Order
  train: Images
  notes: tuple[str, ...]
  online: Online
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


def build(
  config: ConfigDict,
  devices: Sequence[jax.Device] | None = None,
  sets: tuple[Images, Images | None] | None = None,
) -> Experiment:
  """Builds what a config describes; opens the data, but compiles nothing.

  Args:
    config: the four sections, as `config.load` returns them.
    devices: devices to run on; all by default.
    sets: images to train on and to evaluate on; by default, those that the
      config names.

  Raises:
    ConfigError: something in the config cannot run.
  """
  data = config_lib.build(pipeline.Data, config.data, "data")
  schedule = config_lib.build(settings.Schedule, config.schedule, "schedule")
  runtime = config_lib.build(settings.Runtime, config.runtime, "runtime")
  partitioner = Partitioner.create(runtime.parallel, devices)
  partitioner.check_batch(data.batch_size, config.model.get("norm_groups", 1))

  train, test = sets or _open(data)
  _check_channels(data, train, test)
  labelled = train.num_classes is not None
  notes = [*train.notes, *(() if test is None else test.notes)]
  if not labelled:
    notes.append("no labels: neither kNN nor a linear probe is evaluated")
  elif test is None or test.num_classes is None:
    notes.append("no labelled test set: kNN and the probe are not evaluated")
  else:
    runtime = _within(runtime, len(train), notes)
  order = Order(len(train), data.batch_size, schedule.epochs, runtime.seed)
  plan = methods.Plan(data.batch_size, order.steps_per_epoch, len(order))
  method = _method(config.model, plan, schedule.accumulate, partitioner)
  method.check_durations()
  optim.check_durations(schedule.optimizer, len(order))
  slots = method.slots(views_lib.each(data.views))
  learning_rate = optim.learning_rate(
    schedule.optimizer,
    schedule.lr,
    global_batch=data.batch_size,
    steps_per_epoch=order.steps_per_epoch,
    epochs=schedule.epochs,
  )
  probe = None
  if runtime.evaluate.probe is not None and labelled:
    probe = OnlineProbe(train.num_classes, runtime.evaluate.probe)
  key = jax.random.key(runtime.seed)
  batch = example_batch(data.views, slots, data.channels)
  params, _, _ = jax.eval_shape(method.init, key, batch)
  step = TrainStep(
    method=method,
    optimizer=optim.make(
      _without_frozen(schedule.optimizer, method), learning_rate, params
    ),
    learning_rate=learning_rate,
    probe=probe,
    views=data.views,
    slots=slots,
    mean=data.mean,
    std=data.std,
    accumulate=schedule.accumulate,
  )
  abstract_state = jax.eval_shape(step.init, key)
  features = step.abstract_features(
    abstract_state.params, abstract_state.model_state, abstract_state.aux
  )
  for name in runtime.evaluate.features:
    if name not in features:
      raise config_lib.ConfigError(
        f"config.runtime.evaluate.features has {name!r}; this method has"
        f" {', '.join(map(repr, features))}."
      )
  abstract_state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract_state,
    partitioner.state_shardings(abstract_state),
  )
  online = Online(
      runtime.evaluate, method, probe, train, test, partitioner, data
  )  # fmt: skip
  return Experiment(
      data, schedule, runtime, partitioner, order, train, tuple(notes), online,
      step, abstract_state,
  )  # fmt: skip


def _open(data: pipeline.Data) -> tuple[Images, Images | None]:
  """Opens the sets to train on and to evaluate on."""
  train = sources.load(data.records, "train")
  return train, sources.load(data.records, "test", train.classes)


def _check_channels(
  data: pipeline.Data, train: Images, test: Images | None
) -> None:
  """Checks that the views and the network fit the channels of the sets.

  Raises:
    ConfigError: they do not.
  """
  found = [x.channels for x in (train, test) if x is not None]
  if set(found) != {found[0]}:
    raise config_lib.ConfigError(
      f"config.data.source={data.source!r} has images of {found[0]} channels to"
      f" train on and of {found[1]} to evaluate on. Choose sets that are alike."
    )
  data.check_views(train)


def _within(
  runtime: settings.Runtime, bank: int, notes: list[str]
) -> settings.Runtime:
  """Lowers kNN's k to the number of images in the bank."""
  knn = runtime.evaluate.knn
  lowered = tuple(dict.fromkeys(min(k, bank) for k in knn.k))
  if lowered == knn.k:
    return runtime
  notes.append(
    f"config.runtime.evaluate.knn.k={knn.k} is lowered to {lowered}: there are"
    f" only {bank} images to be neighbours"
  )
  knn = dataclasses.replace(knn, k=lowered)
  evaluate = dataclasses.replace(runtime.evaluate, knn=knn)
  return dataclasses.replace(runtime, evaluate=evaluate)


def _without_frozen(
  optimizer: optim.Optimizer, method: methods.Method
) -> optim.Optimizer:
  """Freezes the parameters that the backbone never trains.

  They then have no weight decay and no optimiser state.

  Raises:
    ConfigError: the optimiser freezes other parameters for some steps only.
  """
  frozen = getattr(method.backbone, "frozen", ())
  if not frozen:
    return optimizer
  if optimizer.freeze and optimizer.freeze_steps is not None:
    raise config_lib.ConfigError(
      "config.schedule.optimizer.freeze_steps cannot go with a backbone that"
      " is frozen in part for ever; set config.model.backbone.frozen_patches"
      " to False."
    )
  patterns = tuple(f"^backbone/{pattern}" for pattern in frozen)
  return dataclasses.replace(
    optimizer, freeze=(*optimizer.freeze, *patterns), freeze_steps=None
  )


def _method(
  section: ConfigDict,
  plan: methods.Plan,
  accumulate: int,
  partitioner: Partitioner,
) -> methods.Method:
  """Builds the method, with the BatchNorm groups of one micro-batch.

  Raises:
    ConfigError: the method does not accept its settings, or micro-batches would
      change what it learns.
  """
  method = methods.build(section, plan)
  if accumulate == 1:
    return method
  here = f"config.schedule.accumulate is {accumulate}, but"
  if not method.accumulates:
    raise config_lib.ConfigError(
      f"{here} {type(method).__name__} does not declare `accumulates`. Most"
      " methods compare the images of a batch with each other: in micro-batches"
      " each meets fewer, so they would learn something else. Use 1; to save"
      " memory, more devices, config.model.dtype='bfloat16', or a ViT's remat."
    )
  n = partitioner.num_devices
  if plan.batch_size % (n * accumulate):
    raise config_lib.ConfigError(
      f"{here} config.data.batch_size {plan.batch_size} does not divide evenly"
      f" into that many micro-batches on each of {n} devices."
    )
  networks = method.networks.values()
  if not any(hasattr(network, "norm_groups") for network in networks):
    return method  # It has no BatchNorm.
  groups = section.get("norm_groups", 1)
  if groups % (n * accumulate):
    raise config_lib.ConfigError(
      f"{here} the images of each of config.model.norm_groups={groups} share"
      f" BatchNorm statistics, and a device has {groups / n:g} of these groups,"
      " which that many micro-batches would cut. Use a divisor of it, or 1."
    )
  section = section.copy_and_resolve_references()
  section.norm_groups = groups // accumulate
  return methods.build(section, plan)
