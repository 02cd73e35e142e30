"""The settings classes of a config's sections; loads the config of a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from sslx import methods, optim, schedules
from sslx.boards import BOARDS
from sslx.checkpoint import Checkpoint
from sslx.config import ConfigError, build, loading, require, to_json
from sslx.config.files import Loaded
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
    epochs, steps, images: length of the run: passes over the data, optimiser
      steps, or images seen (rounded down to whole batches). One of them is set.
    optimizer: the optimiser and its base learning rate.
    lr: the learning rate schedule; its values are factors of the peak rate.
    accumulate: number of micro-batches that each batch is cut into, to save
      memory; only for methods whose result does not depend on it.
  """

  optimizer: optim.Optimizer
  lr: schedules.Schedule
  epochs: int | None = None
  steps: int | None = None
  images: int | None = None
  accumulate: int = 1

  def __post_init__(self):
    units = ("epochs", "steps", "images")
    given = {k: getattr(self, k) for k in units if getattr(self, k) is not None}
    if len(given) != 1:
      raise ValueError(
        f"{' and '.join(f'{k}={x}' for k, x in given.items()) or 'nothing'}"
        " says how long the run is; set one of epochs, steps and images, and"
        " the others to None."
      )
    for key, length in given.items():
      possible = 1 <= length <= (10**6 if key == "epochs" else 10**12)
      most = "a million" if key == "epochs" else "10**12"
      require(self, key, possible, f"at least 1, and at most {most}")
    for key in ("start", "final", "warmup_from"):
      v = getattr(self.lr, key)
      if not 0 <= v <= 1:
        raise ValueError(
          f"lr.{key} is {v}; it must be in [0, 1], of the peak learning rate."
        )
    require(self, "accumulate", self.accumulate >= 1, "at least 1")

  def plan(
    self, batch_size: int, images: int, classes: int | None = None
  ) -> schedules.Plan:
    """Returns the length of the run on a set of so many images and classes.

    Raises:
      ConfigError: the images are fewer than a batch.
    """
    length = schedules.Duration(self.epochs, self.steps, self.images)
    plan = schedules.Plan(
      batch_size, images // batch_size, images=images, classes=classes
    )
    total = schedules.steps(length, plan)
    if self.images is not None and not total:
      raise ConfigError(
        f"config.schedule.images is {self.images}, less than a batch of"
        f" {batch_size} images. Set at least that many."
      )
    return plan._replace(total_steps=total)

  @property
  def length(self) -> str:
    """The length of the run, in words."""
    units = ("epochs", "steps", "images")
    (key,) = [k for k in units if getattr(self, k) is not None]
    return f"{getattr(self, key):,} {key}"


@dataclasses.dataclass(frozen=True)
class Runtime:
  """Config section `runtime`: how to run; must not change the result.

  Attributes:
    seed: seed of all random numbers.
    log_every: steps between rows of the log.
    boards: where to show the metrics, besides `metrics.jsonl`: "tensorboard",
      "wandb", "mlflow", "aim".
    parallel: mode and sharding rules.
    checkpoint: when to save and what to keep.
    evaluate: online evaluation.
    init_from: weights to start from, or None: the workdir of a run, or a file
      or folder of weights. Give the keys of `InitFrom` for more options.
    profile: the first step and the number of steps to trace with the profiler,
      into the workdir's `profile/`; None writes no trace. The first step of a
      run compiles: start a few steps later.
    custom_imports: modules that `load` imports, so that they can add to
      METHODS, BACKBONES, SOURCES, KINDS or OPERATIONS.
  """

  seed: int = 0
  log_every: int = 50
  boards: tuple[str, ...] = ("tensorboard",)
  parallel: Parallel = Parallel()
  checkpoint: Checkpoint = Checkpoint()
  evaluate: Evaluate = Evaluate()
  init_from: InitFrom | str | None = None
  profile: tuple[int, int] | None = None
  custom_imports: tuple[str, ...] = ()

  def __post_init__(self):
    require(self, "seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1")
    require(self, "log_every", self.log_every >= 1, "at least 1")
    known = set(self.boards) <= set(BOARDS)
    once = len(set(self.boards)) == len(self.boards)
    require(self, "boards", known and once, f"some of {', '.join(BOARDS)}")
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


def load(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
  """Loads a config to be run.

  Args:
    spec: `path.py`, or `path.py:argument`. A path that begins with `sslx:`, or
      a path `configs/...` that does not exist, is a file of the package.
    overrides: (dotted key, text of the value), as `split_overrides` gives them.
      The last value of a key wins.

  Returns:
    All four sections, locked, with every key of their settings classes. All
    references are resolved, and every value has its type.

  Raises:
    ConfigError: a file does not exist, cannot be read, or does not return the
      four sections; the bases cannot be merged; an override is wrong, see
      `assign`; a custom import failed; or a settings class refuses a value.
  """
  return typed(spec, overrides).config()


def typed(spec: str, overrides: Iterable[tuple[str, str]] = ()) -> Loaded:
  """Loads a config as `load` does, and keeps the origin of every value."""
  return loading.typed(spec, overrides, SECTIONS, check)


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
  plan = schedule.plan(data.batch_size, images=data.batch_size)
  method = methods.build(config["model"], plan)
  method.slots(views.each(data.views))


def fill(config: dict[str, Any]) -> dict[str, Any]:
  """Adds to a stored config the keys that its settings classes have now.

  Args:
    config: JSON values; lists stay lists.
  """
  tree = {key: filled(SECTIONS[key], x) for key, x in plain(config).items()}
  return json.loads(to_json(as_config(tree, final=True)))
