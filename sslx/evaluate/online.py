"""Online evaluation: evaluates frozen features during a run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sslx import monitors, parallel
from sslx.axis import DATA, Axis
from sslx.config import require
from sslx.data import loader, operations
from sslx.data.pipeline import Data
from sslx.data.sets import Images
from sslx.evaluate import knn
from sslx.evaluate.knn import KNN
from sslx.evaluate.probe import OnlineProbe, Probe
from sslx.methods.base import Method
from sslx.methods.run import Run
from sslx.parallel import Partitioner
from sslx.state import TrainState

_RANK_IMAGES = 2048  # training images for the rank, if there is no test set
_PICTURED = 8  # images in a method's pictures


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Config section `runtime.evaluate`.

  Attributes:
    every_epochs: epochs between evaluations; may be a fraction. The untrained
      and the final encoder are always evaluated.
    batch_size: images encoded at once, over all devices.
    knn: the kNN evaluator.
    probe: the linear classifier that is trained alongside the method; None for
      no probe.
    features: names of further features to evaluate by kNN, such as "stage3" of
      a ResNet, or "projector", the output of the projection head, which MoCo's
      CIFAR-10 notebook evaluates; "final" is always evaluated.
    pixels: whether to evaluate raw pixels too, at step 0, as a baseline.
  """

  every_epochs: float = 10.0
  batch_size: int = 512
  knn: KNN = KNN()
  probe: Probe | None = Probe()
  features: tuple[str, ...] = ()
  pixels: bool = False

  def __post_init__(self):
    require(self, "every_epochs", self.every_epochs > 0, "positive")
    require(self, "batch_size", self.batch_size > 0, "positive")


class Features(NamedTuple):
  """Features of a whole set; each batch is sharded over the devices.

  Attributes:
    rows: f32[n, B, d], by name of the features.
    labels: int32[n, B], -1 for padding.
  """

  rows: dict[str, jax.Array]
  labels: jax.Array


class Online:
  """kNN, probe accuracy and collapse monitors on a train and a test set."""

  def __init__(
    self,
    settings: Evaluate,
    method: Method,
    probe: OnlineProbe | None,
    train: Images,
    test: Images | None,
    partitioner: Partitioner,
    data: Data,
  ):
    """Prepares the functions; compiles nothing yet."""
    sets = (train, test)
    self._labelled = all(x and x.num_classes is not None for x in sets)
    mean, std = data.mean, data.std
    self._data = data
    self._bad, self._told, self._note = 0, set(), print
    self._settings = settings
    self._train, self.test = train, test
    self._partitioner = partitioner
    self._method = method
    self._probe = probe

    def encode(network, images):
      images = operations.normalize(images, mean, std)
      features = method.encode(*network, images)
      return {name: features[name] for name in ("final", *settings.features)}

    def pictures(params, model_state, aux, images):
      images = operations.normalize(images[:_PICTURED], mean, std)
      batch, key, step = {"views": (images,)}, jax.random.key(0), jnp.int32(0)
      run = Run(method, params, model_state, aux, batch, key, step, Axis())
      rows = method.pictures(run)
      back = lambda x: _tiled(
        operations.visible(x * jnp.array(std) + jnp.array(mean))
      )
      return jax.tree.map(back, rows)

    self._pictures = None
    if type(method).pictures is not Method.pictures:
      self._pictures = jax.jit(pictures, out_shardings=partitioner.replicated)
    self._encode = jax.jit(encode, out_shardings=partitioner.batch)
    self._probe_hits = jax.jit(_probe_hits, static_argnums=0)
    self._stack = jax.jit(
      lambda batches: jax.tree.map(lambda *x: jnp.stack(x), *batches),
      out_shardings=NamedSharding(partitioner.mesh, P(None, DATA)),
    )

  def run(
    self, state: TrainState, note: Callable[[str], None] = print
  ) -> dict[str, float]:
    """Evaluates a state; the test images are the queries.

    Args:
      state: the state to evaluate.
      note: called once for each image that cannot be decoded.

    Returns:
      A dict of:

      * `knn_<k>`, `<features>_knn_<k>` for further features, and
        `probe_test_accuracy`: fractions of the test set, if both sets have
        labels.
      * `effective_rank` of the test features, or, without a test set, of the
        features of the first training images.
      * `bad_images`: number of images that cannot be decoded, in both sets and
        all processes.

    Raises:
      ConfigError: more images cannot be decoded than `config.data.max_bad`
        allows.
    """
    self._bad, self._note = 0, note
    network = self._method.of_network(
      state.params, state.model_state, state.aux
    )
    encode = functools.partial(self._encode, network)
    results = {}
    if self.test is None:
      test = self._features(encode, self._train, limit=_RANK_IMAGES)
    else:
      test = self._features(encode, self.test)
    if self._labelled:
      results |= self._knn(self._features(encode, self._train), test)
    mesh = self._partitioner.mesh
    results["effective_rank"] = monitors.effective_rank(
      test.rows["final"], test.labels, mesh=mesh
    )
    if self._probe is not None and self._labelled:
      hits, asked = self._probe_hits(
        self._probe, state.probe, test.rows["final"], test.labels
      )
      results["probe_test_accuracy"] = int(hits) / int(asked)
    return results | {"bad_images": self._bad}

  def pictures(self, state: TrainState) -> dict[str, np.ndarray]:
    """Draws the method's pictures of a few images, the same each time.

    Returns:
      uint8[h, w, 3] by name; empty for a method without `pictures`.
    """
    if self._pictures is None:
      return {}
    n = self._partitioner.num_devices
    batch_size = -(-_PICTURED // n) * n
    ((pixels, _),) = loader.evaluation_batches(
      self._train if self.test is None else self.test,
      batch_size,
      self._partitioner.local_rows(batch_size),
      self._data.centre,
      batch_size,
      exif=self._data.exif,
    )
    images = self._partitioner.put(pixels)
    return parallel.to_host(
      self._pictures(state.params, state.model_state, state.aux, images)
    )

  def run_pixels(self) -> dict[str, float]:
    """Evaluates raw pixels by kNN: a baseline without any learning."""
    if not self._labelled:
      return {}
    encode = jax.jit(
      lambda images: {
        "pixels": images.reshape(len(images), -1).astype(jnp.float32)
      },
      out_shardings=self._partitioner.batch,
    )
    return self._knn(
      self._features(encode, self._train), self._features(encode, self.test)
    )

  def _features(
    self,
    encode: Callable[[jax.Array], dict[str, jax.Array]],
    images: Images,
    limit: int | None = None,
  ) -> Features:
    """Encodes a set in its own order, including the last partial batch.

    Args:
      encode: maps uint8[B, h, w, 3] to f32[B, d] by name, where B is the batch
        size of the settings, rounded up to a multiple of the number of devices.
      images: the set.
      limit: encode only this many images.

    Raises:
      ConfigError: too many images cannot be decoded.
    """
    total = min(len(images), limit or len(images))
    bad = []

    def on_bad(index: int, reason: str) -> None:
      bad.append(images.name(index))
      if bad[-1] not in self._told:
        self._told.add(bad[-1])
        self._note(
          f"{bad[-1]} cannot be decoded ({reason}); the evaluation is without"
          " it"
        )
      self._data.check_bad(len(bad), total, bad[-1])

    n = self._partitioner.num_devices
    batch_size = -(-self._settings.batch_size // n) * n
    batches = []
    for batch in loader.evaluation_batches(
      images,
      batch_size,
      self._partitioner.local_rows(batch_size),
      self._data.centre,
      limit,
      exif=self._data.exif,
      on_bad=on_bad,
    ):
      pixels, labels = self._partitioner.put(batch)
      batches.append(Features(encode(pixels), labels))
    counts = parallel.to_host(self._partitioner.of_each_process((len(bad),)))
    count = int(np.sum(counts))
    self._bad += count
    self._data.check_bad(count, total, bad[-1] if bad else None)
    return self._stack(batches)

  def _knn(self, bank: Features, queries: Features) -> dict[str, float]:
    results = {}
    # Reduce k if too few images of the bank can be decoded.
    there = int(jnp.sum(bank.labels >= 0))
    asked = {k: min(k, there) for k in self._settings.knn.k}
    for name, rows in bank.rows.items():
      found = knn.accuracy(
        rows,
        bank.labels,
        queries.rows[name],
        queries.labels,
        k=tuple(asked.values()),
        temperature=self._settings.knn.temperature,
        num_classes=self._train.num_classes,
        mesh=self._partitioner.mesh,
      )
      prefix = "" if name == "final" else f"{name}_"
      results |= {f"{prefix}knn_{k}": found[n] for k, n in asked.items()}
    return results


def _tiled(rows: jax.Array) -> jax.Array:
  """Tiles f32[rows, b, h, w, 3] in [0, 1] to one uint8[rows h, b w, 3]."""
  r, b, h, w, c = rows.shape
  picture = rows.swapaxes(1, 2).reshape(r * h, b * w, c)
  return jnp.round(jnp.clip(picture, 0, 1) * 255).astype(jnp.uint8)


def _probe_hits(
  probe: OnlineProbe, state: Any, rows: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Counts correctly classified and all valid rows, as int32 scalars."""
  predicted = jnp.argmax(probe.logits(state, rows), axis=-1)
  valid = labels >= 0
  return jnp.sum((predicted == labels) & valid), jnp.sum(valid)
