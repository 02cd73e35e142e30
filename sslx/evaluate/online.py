"""Online evaluation: evaluates frozen features during a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sslx.config import require
from sslx.evaluate.encoder import Features, Reader, of_method
from sslx.evaluate.evaluators import (
  Classification,
  EffectiveRank,
  Evaluator,
  Neighbours,
  Pictures,
  Pixels,
  ProbeAccuracy,
  Set,
  Sets,
)
from sslx.evaluate.knn import KNN
from sslx.evaluate.probe import OnlineProbe, Probe
from sslx.methods.base import Method
from sslx.methods.classify import TOP
from sslx.state import TrainState

_HEAD = 2048  # training images in place of a test set, if there is none


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Config section `runtime.evaluate`.

  Attributes:
    every_epochs: epochs between evaluations; may be a fraction. The untrained
      and the final encoder are always evaluated.
    batch_size: images encoded at once, over all devices.
    knn: the kNN evaluator; None for no kNN.
    probe: the linear classifier that is trained alongside the method; None for
      no probe.
    features: names of further features to evaluate by kNN, such as "stage3" of
      a ResNet, or "projector", the output of the projection head, which MoCo's
      CIFAR-10 notebook evaluates; "final" is always evaluated.
    pixels: whether to evaluate raw pixels too, at step 0, as a baseline.
  """

  every_epochs: float = 10.0
  batch_size: int = 512
  knn: KNN | None = KNN()
  probe: Probe | None = Probe()
  features: tuple[str, ...] = ()
  pixels: bool = False

  def __post_init__(self):
    require(self, "every_epochs", self.every_epochs > 0, "positive")
    require(self, "batch_size", self.batch_size > 0, "positive")


class Results(NamedTuple):
  """Results of an evaluation.

  Attributes:
    scalars: by name.
    pictures: uint8[h, w, 3] by name.
  """

  scalars: dict[str, float]
  pictures: dict[str, np.ndarray]


class Online:
  """The evaluators of a run, over features that are encoded once for all.

  Attributes:
    evaluators: in the order of their calls.
  """

  def __init__(
    self,
    method: Method,
    images: Sets,
    reader: Reader,
    evaluators: Sequence[Evaluator],
  ):
    """Prepares the encoder; compiles nothing yet.

    Args:
      method: encodes images, and says by which network.
      images: the training set and, if there is one, the test set.
      reader: reads them.
      evaluators: in the order of their calls. The features of a set are freed
        after the last evaluator that reads them.
    """
    self.evaluators = tuple(evaluators)
    self._method, self._images = method, images
    names = {name: None for x in evaluators for name in x.features}
    self._encoder = of_method(method, names, reader)

  def run(
    self, state: TrainState, note: Callable[[str], None] = print
  ) -> Results:
    """Evaluates a state; all processes call it together.

    Args:
      state: the state to evaluate.
      note: called once for each image that cannot be decoded.

    Returns:
      What the evaluators found; and `bad_images`, the number of images that
      cannot be decoded, in all sets read and all processes.

    Raises:
      ConfigError: more images cannot be decoded than `config.data.max_bad`
        allows.
    """
    network = self._method.of_network(
      state.params, state.model_state, state.aux
    )
    found, results, bad = {}, {}, 0
    for i, evaluator in enumerate(self.evaluators):
      for name in evaluator.sets:
        if name not in found:
          found[name] = self._encode(network, name, note)
          bad += found[name].bad
      results |= evaluator(state, found)
      later = {name for x in self.evaluators[i + 1 :] for name in x.sets}
      found = {name: x for name, x in found.items() if name in later}
    is_picture = lambda x: isinstance(x, np.ndarray)
    return Results(
      {k: x for k, x in results.items() if not is_picture(x)}
      | {"bad_images": bad},
      {k: x for k, x in results.items() if is_picture(x)},
    )

  def _encode(
    self, network: Any, name: Set, note: Callable[[str], None]
  ) -> Features:
    """Encodes a set; in place of an absent test set the first images."""
    if name in self._images:
      return self._encoder(network, self._images[name], note=note)
    return self._encoder(network, self._images["train"], _HEAD, note)


def standard(
  settings: Evaluate,
  method: Method,
  probe: OnlineProbe | None,
  images: Sets,
  reader: Reader,
  features: Iterable[str],
) -> list[Evaluator]:
  """Makes the evaluators that the settings ask for and the labels allow.

  Args:
    settings: config section `runtime.evaluate`.
    method: the method of the run.
    probe: the linear classifier that is trained alongside it, or None.
    images: the training set and, if there is one, the test set.
    reader: reads them.
    features: names of what the method's `encode` computes.
  """
  mesh = reader.partitioner.mesh
  classes = [x.num_classes for x in images.values()]
  labelled = len(images) == 2 and None not in classes
  evaluators: list[Evaluator] = []
  if labelled and settings.knn is not None:
    neighbours = Neighbours(
      settings.knn, classes[0], mesh, ("final", *settings.features)
    )
    # First, since it alone needs the training set: that is freed soon.
    evaluators.append(neighbours)
  own = tuple(name for name in features if name.startswith(f"top{TOP}/"))
  if not own:
    evaluators.append(EffectiveRank(mesh))
  elif labelled:
    evaluators.append(Classification(own))
  if labelled and probe is not None:
    evaluators.append(ProbeAccuracy(probe))
  if type(method).pictures is not Method.pictures:
    shown = images.get("test", images["train"])
    evaluators.append(Pictures(method, shown, reader))
  if labelled and settings.pixels and settings.knn is not None:
    evaluators.append(Pixels(neighbours, images, reader))
  return evaluators
