"""What a protocol measures: a frozen network, and the sets that it encodes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from sslx.data.sets import Images
from sslx.evaluate.encoder import Encoder, Reader, of_method
from sslx.weights.run import Run


@dataclasses.dataclass(frozen=True)
class Subject:
  """A frozen network with the sets of a protocol.

  Attributes:
    run: the network.
    features: name of the features that are measured.
    reader: reads the sets in the view of the protocol.
    train: the training set.
    test: the test set; None if the measure takes no labels.
    note: called with messages for the user.
  """

  run: Run
  features: str
  reader: Reader
  train: Images
  test: Images | None
  note: Callable[[str], None]

  @functools.cached_property
  def weights(self) -> Any:
    """Parameters and BatchNorm statistics, on all devices."""
    return jax.device_put(
      (self.run.params, self.run.model_state),
      self.reader.partitioner.replicated,
    )

  @functools.cached_property
  def _encoder(self) -> Encoder:
    return of_method(self.run.method, (self.features,), self.reader)

  def encode(self, images: Images) -> tuple[jax.Array, jax.Array]:
    """Encodes a set; all processes call it together.

    Returns:
      f32[n, B, d] and int32[n, B], as in `encoder.Features`.
    """
    found = self._encoder(self.weights, images, note=self.note)
    return found.rows[self.features], found.labels

  def table(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a set, in one process.

    Returns:
      float64[n, d] and int32[n] on the host, without images that cannot be
      decoded. Float64, because the solvers of scikit-learn are stopped by
      rounding before they converge in float32.
    """
    rows, labels = map(np.asarray, self.encode(images))
    valid = labels >= 0
    return rows[valid].astype(np.float64), labels[valid]


class Measure(Protocol):
  """What a protocol computes from the features.

  Attributes:
    labelled: whether it takes the labels of a training and a test set.
    on_host: whether it runs scikit-learn, in one process.
  """

  labelled: ClassVar[bool]
  on_host: ClassVar[bool]

  def __call__(self, subject: Subject) -> dict[str, float]:
    """Returns the results by name."""
