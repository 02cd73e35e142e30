"""Measures that need no labels: RankMe, LiDAR, alignment and uniformity."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from sslx import monitors
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data import augment, operations, pipeline
from sslx.data.order import Order
from sslx.data.sets import Images, evenly
from sslx.data.views import View
from sslx.evaluate.subject import Subject


@dataclasses.dataclass(frozen=True)
class LabelFree:
  """Measures of the training set; the test set and the labels are not used.

  RankMe takes images in the evaluation view. The others take random views of
  the kind that the run was trained on: where its views differ, the first. An
  image that cannot be decoded is left out of RankMe, and replaced by its
  neighbour in the others.

  Attributes:
    images: images of RankMe, evenly spread over the set (`sets.evenly`).
    classes: images of which views are made, likewise; rounded down so that the
      devices have equally many.
    views: views of each of these images, q.

  References:
    `monitors.effective_rank`, which is RankMe, `lidar`, `alignment` and
    `uniformity`. RankMe takes 25,600 images; LiDAR 1000, with 50 views each.
  """

  labelled: ClassVar[bool] = False
  on_host: ClassVar[bool] = False

  images: int = 25_600
  classes: int = 1000
  views: int = 50

  def __call__(self, subject: Subject) -> dict[str, float]:
    """Returns `rankme`, `lidar`, `alignment` and `uniformity`.

    Of a method whose views are patches, only `rankme`.

    Raises:
      ConfigError: there are fewer images than devices, or than 2.
    """
    mesh = subject.reader.partitioner.mesh
    rows, labels = subject.encode(evenly(subject.train, self.images))
    results = {"rankme": monitors.effective_rank(rows, labels, mesh=mesh)}
    view = subject.run.data.views[0]
    if len(view.shape()) > 3:
      subject.note(
        f"views of kind {view.kind!r} are not images of the network's size:"
        " neither LiDAR, alignment nor uniformity is measured"
      )
      return results
    found = encode_views(
      subject, evenly(subject.train, self.classes), view, self.views
    )
    return results | {
      "lidar": monitors.lidar(found, mesh=mesh),
      "alignment": monitors.alignment(found, mesh=mesh),
      "uniformity": monitors.uniformity(found[:, :, 0], mesh=mesh),
    }


@dataclasses.dataclass(frozen=True)
class _Repeated(Order):
  """Gives each batch `views` times in a row; each time it is cut differently.

  Attributes:
    views: how often.
  """

  views: int

  def __getitem__(self, batch: int) -> np.ndarray:
    return super().__getitem__(batch // self.views)


def encode_views(
  subject: Subject, images: Images, view: View, count: int
) -> jax.Array:
  """Encodes random views; all processes call it together.

  Args:
    subject: the network.
    images: the set; the last images that do not fill a batch are left out.
    view: the kind of view.
    count: views of each image.

  Returns:
    f32[n, B, count, d], sharded over B.

  Raises:
    ConfigError: there are fewer images than devices, or than 2.
  """
  run, partitioner = subject.run, subject.reader.partitioner
  devices = partitioner.num_devices
  parts = -(-len(images) // subject.reader.batch_size)
  b = len(images) // parts // devices * devices
  if b * parts < 2:
    raise ConfigError(
      f"the training set has {len(images)} images; this protocol needs at least"
      f" 2, and one for each of {devices} devices. Use a larger set or fewer"
      " devices."
    )
  one = dataclasses.replace(view, count=1, link=None)
  data = dataclasses.replace(run.data, views=(one,), workers=0)
  order = _Repeated(len(images), b, parts * count, seed=0, views=count)
  axis = Axis(sharding=partitioner.batch)

  def encode(weights, batch, number):
    key = jax.random.fold_in(jax.random.key(0), number)
    keys = augment.example_keys(key, axis.positions(b))
    if "views" in batch:
      (cut,) = batch["views"]
    else:
      cut = one.cut(batch["image"], keys)
    pixels = axis.by_example(one.colour, cut, keys)
    images = operations.normalize(pixels, data.mean, data.std)
    return run.method.encode(*weights, images)[subject.features]

  encode = jax.jit(encode, out_shardings=partitioner.batch)
  host = pipeline.host_batches(images, order, partitioner.local_rows(b), data)
  found = []
  with contextlib.closing(pipeline.Batches(host, partitioner.put)) as batches:
    for number, batch in enumerate(batches):
      found.append(encode(subject.weights, batch, jnp.int32(number)))
  rows = [
    jnp.stack(found[i : i + count], axis=1) for i in range(0, len(found), count)
  ]
  return jnp.stack(rows)
