"""Builds an experiment from a config, and checks that its parts fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import methods, optim, settings
from sslx.data import pipeline, sources
from sslx.data import views as views_lib
from sslx.data.order import Order
from sslx.data.sets import Images, evenly
from sslx.epoch import EpochStart
from sslx.evaluate.encoder import Reader
from sslx.evaluate.online import Online, standard
from sslx.evaluate.probe import OnlineProbe
from sslx.experiment.experiment import Experiment
from sslx.parallel import Partitioner
from sslx.step import TrainStep, example_batch


def build(
  config: ConfigDict,
  devices: Sequence[jax.Device] | None = None,
  sets: tuple[Images, Images | None] | None = None,
) -> Experiment:
  """Builds what a config describes; opens the data, but compiles nothing.

  Args:
    config: the four sections, as `settings.load` returns them.
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
  images = {"train": train} | ({} if test is None else {"test": test})
  if not labelled:
    notes.append("no labels: neither kNN nor a linear probe is evaluated")
  elif test is None or test.num_classes is None:
    notes.append("no labelled test set: kNN and the probe are not evaluated")
  elif runtime.evaluate.knn is not None:
    bank = images["train"] = evenly(train, runtime.evaluate.knn.bank)
    if len(bank) < len(train):
      notes.append(f"kNN over {len(bank):,} of {len(train):,} training images")
    runtime = _within(runtime, len(bank), notes)
  plan = schedule.plan(data.batch_size, len(train), train.num_classes)
  order = Order(len(train), data.batch_size, plan.total_steps, runtime.seed)
  method = _method(config.model, plan, schedule.accumulate, partitioner)
  method.check_durations()
  optim.check(schedule.optimizer, schedule.lr, plan)
  slots = method.slots(views_lib.each(data.views))
  learning_rate = optim.learning_rate(schedule.optimizer, schedule.lr, plan)
  probe = None
  if runtime.evaluate.probe is not None and labelled:
    probe = OnlineProbe(train.num_classes, runtime.evaluate.probe)
  key = jax.random.key(runtime.seed)
  batch = example_batch(data.views, slots, data.channels)
  params, _, _ = jax.eval_shape(method.init, key, batch)
  step = TrainStep(
    method=method,
    optimizer=optim.make(
      without_frozen(schedule.optimizer, method), learning_rate, params, plan
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
    partitioner.state_shardings(abstract_state, method.tensor_rules),
  )
  reader = Reader(data, partitioner, runtime.evaluate.batch_size)
  evaluators = standard(
    runtime.evaluate, method, probe, images, reader, features
  )
  online = Online(method, images, reader, evaluators)
  epoch_start = None
  if type(method).on_epoch is not methods.Method.on_epoch:
    epoch_start = EpochStart(method, train, reader, abstract_state)
  return Experiment(
      data, schedule, runtime, partitioner, order, train, test, tuple(notes),
      online, epoch_start, step, abstract_state,
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


def without_frozen(
  optimizer: optim.Optimizer, method: methods.Method
) -> optim.Optimizer:
  """Freezes the parameters that the method never trains.

  They then have no weight decay and no optimiser state.
  """
  never = optim.Rule(freeze=True)
  rules = tuple((pattern, never) for pattern in method.frozen)
  return dataclasses.replace(optimizer, rules=(*rules, *optimizer.rules))


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
      f"{here} {type(method).__name__} does not declare `accumulates` with"
      " these settings. Most methods compare the images of a batch with each"
      " other: in micro-batches each meets fewer, so they would learn something"
      " else. Use 1; to save memory, more devices, config.model.dtype="
      "'bfloat16', or a ViT's remat."
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
