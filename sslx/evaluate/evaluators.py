"""The evaluators of a run: each turns a state into scalars or pictures.

An evaluator is an object with the attributes and the call of `Evaluator`.
`online.standard` makes the list of those of a run; a new one is added there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sslx import monitors, parallel
from sslx.axis import Axis
from sslx.data import operations
from sslx.data.sets import Images
from sslx.evaluate import knn
from sslx.evaluate.encoder import Encoder, Features, Reader
from sslx.evaluate.knn import KNN
from sslx.evaluate.probe import OnlineProbe
from sslx.methods.base import Method
from sslx.methods.classify import TOP
from sslx.methods.run import Run
from sslx.state import TrainState

Set = Literal["train", "test"]
Sets = Mapping[Set, Images]
_PICTURED = 8  # images in a method's pictures


class Evaluator(Protocol):
  """What `Online` asks of an evaluator.

  Attributes:
    sets: the sets of which it reads features. "train" is the bank of kNN, see
      `KNN.bank`. Without a test set, "test" is the first training images.
    features: the names of the features that it reads, as `Method.encode` has
      them.
  """

  sets: tuple[Set, ...]
  features: tuple[str, ...]

  def __call__(
    self, state: TrainState, found: Mapping[Set, Features]
  ) -> dict[str, float | np.ndarray]:
    """Evaluates a state; all processes call it together.

    Args:
      state: the state to evaluate.
      found: features of at least its `sets`, with at least its `features`, by
        the network that the method evaluates.

    Returns:
      Scalars and pictures by name; a picture is uint8[h, w, 3].
    """


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """Weighted k-nearest-neighbour accuracy of the test set.

  It reports `knn_<k>`, and `<features>_knn_<k>` for features that are not
  "final".

  Attributes:
    settings: of the vote.
    num_classes: number of classes.
    mesh: the mesh that the features are on.
    features: names of the features to evaluate.
  """

  sets = ("test", "train")

  settings: KNN
  num_classes: int
  mesh: Mesh
  features: tuple[str, ...] = ("final",)

  def __call__(
    self, state: TrainState, found: Mapping[Set, Features]
  ) -> dict[str, float]:
    """Returns the accuracies, as fractions of the test set."""
    del state
    bank, queries = found["train"], found["test"]
    # Reduce k if too few images of the bank can be decoded.
    there = int(jnp.sum(bank.labels >= 0))
    asked = {k: min(k, there) for k in self.settings.k}
    results = {}
    for name in self.features:
      accuracies = knn.accuracy(
        bank.rows[name],
        bank.labels,
        queries.rows[name],
        queries.labels,
        k=tuple(asked.values()),
        temperature=self.settings.temperature,
        num_classes=self.num_classes,
        mesh=self.mesh,
      )
      prefix = "" if name == "final" else f"{name}_"
      results |= {f"{prefix}knn_{k}": accuracies[n] for k, n in asked.items()}
    return results


@dataclasses.dataclass(frozen=True)
class EffectiveRank:
  """The effective rank of the test features: `effective_rank`.

  Attributes:
    mesh: the mesh that the features are on.
  """

  sets = ("test",)
  features = ("final",)

  mesh: Mesh

  def __call__(
    self, state: TrainState, found: Mapping[Set, Features]
  ) -> dict[str, float]:
    """Returns the number of dimensions that the features use."""
    del state
    test = found["test"]
    rank = monitors.effective_rank(
      test.rows["final"], test.labels, mesh=self.mesh
    )
    return {"effective_rank": rank}


@dataclasses.dataclass(frozen=True)
class ProbeAccuracy:
  """Test accuracy of the probe of the state: `probe_test_accuracy`.

  Attributes:
    probe: the linear classifier that is trained alongside the method.
  """

  sets = ("test",)
  features = ("final",)

  probe: OnlineProbe

  def __call__(
    self, state: TrainState, found: Mapping[Set, Features]
  ) -> dict[str, float]:
    """Returns the accuracy, as a fraction of the test set."""
    test = found["test"]
    hits, asked = _probe_hits(
      self.probe, state.probe, test.rows["final"], test.labels
    )
    return {"probe_test_accuracy": int(hits) / int(asked)}


@functools.partial(jax.jit, static_argnums=0)
def _probe_hits(
  probe: OnlineProbe, state: Any, rows: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Counts correctly classified and all valid rows, as int32 scalars."""
  predicted = jnp.argmax(probe.logits(state, rows), axis=-1)
  valid = labels >= 0
  return jnp.sum((predicted == labels) & valid), jnp.sum(valid)


@dataclasses.dataclass(frozen=True)
class Classification:
  """Test accuracy of a method's own classifiers: `top1`, `top5`.

  If there are several classifiers, these are of the best one, and `top1/<name>`
  is of each (DINOv2's linear evaluation).

  Attributes:
    features: names of the features that hold the most probable classes,
      int32[b, 5] for each image, best first.
  """

  sets = ("test",)

  features: tuple[str, ...]

  def __call__(
    self, state: TrainState, found: Mapping[Set, Features]
  ) -> dict[str, float]:
    """Returns the accuracies, as fractions of the test set."""
    del state
    test, shares = found["test"], {}
    for name in self.features:
      hits, asked = _hits_among(test.rows[name], test.labels)
      shares[name.partition("/")[2]] = np.cumsum(hits) / int(asked)
    best = max(shares.values(), key=lambda share: share[0])
    results = {"top1": float(best[0])}
    if len(best) == TOP:
      results["top5"] = float(best[-1])
    if len(shares) > 1:
      results |= {f"top1/{name}": float(x[0]) for name, x in shares.items()}
    return results


@jax.jit
def _hits_among(
  classes: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Counts, by rank, the rows whose class has it: int32[k]; and valid rows."""
  right = (classes == labels[..., None]) & (labels >= 0)[..., None]
  return jnp.sum(right, axis=(0, 1)), jnp.sum(labels >= 0)


class Pixels:
  """kNN of raw pixels, a baseline without any learning: `pixels_knn_<k>`.

  It needs no features, but makes its own from both sets, at step 0 only. It
  should be last in the list: then no other features are on the devices.
  """

  sets, features = (), ()

  def __init__(self, neighbours: Neighbours, images: Sets, reader: Reader):
    """Prepares the evaluator.

    Args:
      neighbours: the kNN evaluator of the features.
      images: both sets.
      reader: reads them.
    """
    self._neighbours = dataclasses.replace(neighbours, features=("pixels",))
    self._images = images
    flat = lambda x: x.reshape(len(x), -1).astype(jnp.float32)
    self._encode = Encoder(lambda _, x: {"pixels": flat(x)}, reader)

  def __call__(
    self, state: TrainState, found: Mapping[Set, Features]
  ) -> dict[str, float]:
    """Returns the accuracies at step 0, and nothing later."""
    if int(parallel.to_host(state.step)):
      return {}
    quiet = lambda text: None  # Bad images were named for the features.
    pixels = {
      name: self._encode((), images, note=quiet)
      for name, images in self._images.items()
    }
    return self._neighbours(state, pixels)


class Pictures:
  """The method's pictures of a few images, the same each time."""

  sets, features = (), ()

  def __init__(self, method: Method, images: Images, reader: Reader):
    """Prepares the drawing; compiles nothing yet.

    Args:
      method: the method that draws.
      images: the first images of this set are drawn.
      reader: reads the set.
    """
    self._images = images
    self._reader = dataclasses.replace(reader, wanted=_PICTURED)
    mean, std = reader.data.mean, reader.data.std

    def draw(params, model_state, aux, images):
      images = operations.normalize(images[:_PICTURED], mean, std)
      batch, key, step = {"views": (images,)}, jax.random.key(0), jnp.int32(0)
      run = Run(method, params, model_state, aux, batch, key, step, Axis())
      rows = method.pictures(run)
      back = lambda x: _tiled(
        operations.visible(x * jnp.array(std) + jnp.array(mean))
      )
      return jax.tree.map(back, rows)

    self._draw = jax.jit(draw, out_shardings=reader.partitioner.replicated)

  def __call__(
    self, state: TrainState, found: Mapping[Set, Features]
  ) -> dict[str, np.ndarray]:
    """Returns the pictures, uint8[h, w, 3] by name."""
    del found
    ((images, _),) = self._reader(self._images, self._reader.batch_size)
    return parallel.to_host(
      self._draw(state.params, state.model_state, state.aux, images)
    )


def _tiled(rows: jax.Array) -> jax.Array:
  """Tiles f32[rows, b, h, w, 3] in [0, 1] to one uint8[rows h, b w, 3]."""
  r, b, h, w, c = rows.shape
  picture = rows.swapaxes(1, 2).reshape(r * h, b * w, c)
  return jnp.round(jnp.clip(picture, 0, 1) * 255).astype(jnp.uint8)
