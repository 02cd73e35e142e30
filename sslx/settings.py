"""The settings classes of a config's sections; they document each key."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from sslx import methods, optim
from sslx.checkpoint import Checkpoint
from sslx.config import build, require, to_json
from sslx.config.schema import filled
from sslx.config.tree import as_config, plain
from sslx.data import views
from sslx.data.pipeline import Data
from sslx.evaluate.online import Evaluate
from sslx.parallel import Parallel
from sslx.weights.source import InitFrom


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Config section `schedule`.

  Attributes:
    epochs: passes over the data.
    optimizer: the optimiser and its base learning rate.
    lr: the learning rate schedule.
    accumulate: number of micro-batches that each batch is cut into, to save
      memory; only for methods whose result does not depend on it.
  """

  epochs: int
  optimizer: optim.Optimizer
  lr: optim.Schedule
  accumulate: int = 1

  def __post_init__(self):
    possible = 1 <= self.epochs <= 10**6
    require(self, "epochs", possible, "at least 1, and at most a million")
    require(self, "accumulate", self.accumulate >= 1, "at least 1")


@dataclasses.dataclass(frozen=True)
class Runtime:
  """Config section `runtime`: how to run; must not change the result.

  Attributes:
    seed: seed of all random numbers.
    log_every: steps between rows of the log.
    parallel: mode and sharding rules.
    checkpoint: when to save and what to keep.
    evaluate: online evaluation.
    init_from: weights to start from, or None: the workdir of a run, or a file
      or folder of weights. Give the keys of `InitFrom` for more options.
    profile: the first step and the number of steps to trace with the profiler,
      into the workdir's `profile/`; None writes no trace. The first step of a
      run compiles: start a few steps later.
    custom_imports: modules that `config.load` imports, so that they can add to
      METHODS, BACKBONES, SOURCES, KINDS or OPERATIONS.
  """

  seed: int = 0
  log_every: int = 50
  parallel: Parallel = Parallel()
  checkpoint: Checkpoint = Checkpoint()
  evaluate: Evaluate = Evaluate()
  init_from: InitFrom | str | None = None
  profile: tuple[int, int] | None = None
  custom_imports: tuple[str, ...] = ()

  def __post_init__(self):
    require(self, "seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1")
    require(self, "log_every", self.log_every >= 1, "at least 1")
    require(
      self,
      "profile",
      self.profile is None or min(self.profile) >= 1,
      "the first step and the number of steps, each at least 1, or None",
    )


SECTIONS = {
  "model": methods.MODEL,
  "data": Data,
  "schedule": Schedule,
  "runtime": Runtime,
}


def check(config: Mapping[str, Any]) -> None:
  """Checks a config by building its settings, without data or devices.

  Args:
    config: the sections of the config, with references resolved.

  Raises:
    ConfigError: a key is unknown, a value is invalid, or the method cannot use
      the views.
  """
  data, schedule, _ = (
    build(SECTIONS[key], config[key], key)
    for key in ("data", "schedule", "runtime")
  )
  plan = methods.Plan(data.batch_size, 1, schedule.epochs)
  method = methods.build(config["model"], plan)
  method.slots(views.each(data.views))


def fill(config: dict[str, Any]) -> dict[str, Any]:
  """Adds to a stored config the keys that its settings classes have now.

  Args:
    config: JSON values; lists stay lists.
  """
  tree = {key: filled(SECTIONS[key], x) for key, x in plain(config).items()}
  return json.loads(to_json(as_config(tree, final=True)))
