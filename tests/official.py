"""Some updates of a method beside those of its official algorithm.

The test file of a method has a `Case`, with the official algorithm written out.
Its tests check it, and `python -m tests.compare_official` prints all of them.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from sslx import experiment as experiment_lib
from sslx import methods, step
from sslx.axis import Axis
from tests import naive, tiny

# The methods of the suite; the other two evaluate a network.
METHODS = tuple(x for x in methods.METHODS if x not in ("linear", "finetune"))

# Ours are float32, the reference float64. Parameters are compared by how far
# they have moved, which is little beside what is rounded.
ACCEPTED = {"parameters": 1e-3, "teacher": 1e-3}
ELSE = 1e-4


class Difference(NamedTuple):
  """How large one is, and in which array."""

  size: float
  where: str


class Taken(NamedTuple):
  """Updates that sslx has taken, on one device.

  Attributes:
    experiment: the run.
    start: the state before, with arrays of float64.
    batches: one for each update.
    views: of each update, what `Case.views` makes of its batch, in float64.
    keys: of each update, the loss's key.
    metrics: of each update.
    gradients: of each update, as the optimiser is given them.
    end: the state after.
  """

  experiment: experiment_lib.Experiment
  start: Any
  batches: list
  views: list
  keys: list
  metrics: list
  gradients: list
  end: Any


def preprocess(experiment, batch, key):
  """The views of a batch, as a loss is given them."""
  return experiment.step.preprocess(batch, key, Axis())


@dataclasses.dataclass(frozen=True)
class Case:
  """A method, and what its official code makes of the same views.

  Attributes:
    method: its name in a config.
    source: of the reference: files of a repository, equations of a paper.
    config: returns the config of a tiny run.
    steps: how many updates are compared.
    reference: the official algorithm. Given `Taken` and the name of a mistake,
      or "", it returns what `reached` does. It is called where arrays are
      float64.
    mistakes: known wrong variants, and which suites have them.
    accepted: the largest differences that are accepted, by quantity, where
      they are not those of all cases.
    views: (experiment, batch, key) -> the views that the reference is given.
  """

  method: str
  source: str
  config: Callable[[], ConfigDict]
  steps: int
  reference: Callable[[Taken, str], dict[str, Any]]
  mistakes: Mapping[str, str]
  accepted: Mapping[str, float] = dataclasses.field(default_factory=dict)
  views: Callable[..., tuple] = preprocess

  def take(self) -> Taken:
    """Takes the updates with sslx."""
    experiment = tiny.build_method(self.config())
    start = state = jax.device_get(experiment.init_state())
    batches = jax.device_get(tiny.batches(experiment, self.steps))
    rng = jax.random.wrap_key_data(start.rng)
    keys = [step.step_keys(rng, i) for i in range(self.steps)]
    make = jax.jit(lambda *x: self.views(experiment, *x))
    views = [make(*x) for x in zip(batches, [k[0] for k in keys], strict=True)]

    optimizer = experiment.step.optimizer

    @jax.jit
    def update(state, batch):
      given = []

      def watched(gradients, *rest):
        given.append(gradients)
        return optimizer.update(gradients, *rest)

      whole = dataclasses.replace(
        experiment.step, optimizer=optimizer._replace(update=watched)
      )
      return whole(state, batch, Axis()), given

    gradients, metrics = [], []
    for batch in batches:
      (state, out), (given,) = jax.device_get(update(state, batch))
      gradients.append(given)
      metrics.append(out)
    return Taken(
      experiment,
      _float64(start),
      batches,
      _float64(jax.device_get(views)),
      [k[1] for k in keys],
      metrics,
      gradients,
      state,
    )

  def differences(
    self, taken: Taken, mistake: str = ""
  ) -> dict[str, Difference]:
    """The largest relative difference of each quantity."""
    with jax.enable_x64(True):
      expected = jax.device_get(self.reference(taken, mistake))
    found = reached(taken)
    assert set(found) == set(expected), f"{set(found)} != {set(expected)}"
    moving = {"parameters": taken.start.params}
    if "teacher" in found:
      moving["teacher"] = taken.start.aux["params"]
    moved = lambda new: {
      name: jax.tree.map(np.subtract, x, moving[name]) if name in moving else x
      for name, x in new.items()
    }
    found, expected = moved(found), moved(expected)
    return {
      name: Difference(*naive.difference(x, expected[name]))
      for name, x in found.items()
      if jax.tree.leaves(x)
    }

  def fits(self, found: Mapping[str, Difference]) -> bool:
    """Whether all differences are accepted."""
    accepted = ACCEPTED | self.accepted
    return all(x.size <= accepted.get(name, ELSE) for name, x in found.items())

  def catches(self, found: Mapping[str, Difference]) -> bool:
    """Whether a wrong variant is seen, and not by numbers that are none."""
    finite = all(np.isfinite(x.size) for x in found.values())
    return finite and not self.fits(found)


def reached(taken: Taken) -> dict[str, Any]:
  """What is compared: all of the state, and losses, rates and gradients.

  Returns:
    By quantity: numbers and gradients of each update; parameters, BatchNorm
    statistics and, by their names, buffers after the last one.
  """
  aux = dict(taken.end.aux)
  found = {
    "loss": np.array([x["loss"] for x in taken.metrics]),
    "rate": np.array([x["lr"] for x in taken.metrics]),
    "gradient": taken.gradients,
    "parameters": taken.end.params,
    "statistics": taken.end.model_state,
  }
  if "params" in aux:
    found["teacher"] = aux.pop("params")
    found["teacher's statistics"] = aux.pop("model_state")
  return found | aux


def case(method: str) -> Case:
  """The `OFFICIAL` in the test file of a method."""
  name = methods.METHODS[method].__module__.rpartition(".")[-1]
  found = importlib.import_module(f"tests.methods.{name}_test").OFFICIAL
  assert found.method == method
  return found


def _float64(tree: Any) -> Any:
  return jax.tree.map(
    lambda x: (
      np.float64(x) if np.issubdtype(np.asarray(x).dtype, np.floating) else x
    ),
    tree,
  )
