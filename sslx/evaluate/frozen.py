"""Evaluation protocols over frozen features. A name fixes every setting.

`PROTOCOLS` has them by name. A protocol has a version too: a figure is printed
with both, and whatever would change the figure of some network raises it. The
README of this folder lists settings, sources and published figures.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from sslx import parallel
from sslx.config import ConfigError
from sslx.data.sets import Images, evenly
from sslx.data.views import Centre, Whole
from sslx.evaluate import knn
from sslx.evaluate.encoder import Reader
from sslx.evaluate.knn import KNN
from sslx.evaluate.label_free import LabelFree
from sslx.evaluate.logreg import LogisticRegression
from sslx.evaluate.subject import Measure, Subject
from sslx.evaluate.svm import SVM, LowShot
from sslx.weights.run import Run


@dataclasses.dataclass(frozen=True)
class Frozen:
  """A protocol: how images are prepared, which features, and what is measured.

  Attributes:
    version: of the protocol.
    measure: what is computed from the features.
    features: names of features by preference: the first that the network has is
      measured.
    resize: length of the short side of an image over the side of the network's
      input, before the centre crop; None stretches the whole image to the
      input. Small images, which are in memory, are always taken whole.
    interpolation: filter of the resize, antialiased.
  """

  version: int
  measure: Measure
  features: tuple[str, ...]
  resize: float | None = 256 / 224
  interpolation: Literal["bilinear", "bicubic"] = "bicubic"

  def view(self, size: int) -> Centre:
    """The evaluation view of large images, for a network of this input."""
    if self.resize is None:
      return Whole(size, size, self.interpolation)
    return Centre(size, round(self.resize * size), self.interpolation)


@dataclasses.dataclass(frozen=True)
class NearestNeighbours:
  """Top-1 accuracy of a weighted vote of the nearest training images.

  Differs from DINO's and MMSelfSup's code: theirs cuts the test set into 100
  chunks and fails if it has fewer images, and both fail if k is larger than the
  bank; here any test set will do, and k is lowered, with a note. Neighbours and
  votes are in float32 whatever the dtype of the network, and ties are broken as
  in `knn.accuracy`.

  Attributes:
    settings: of the vote.
  """

  labelled: ClassVar[bool] = True
  on_host: ClassVar[bool] = False

  settings: KNN

  def __call__(self, subject: Subject) -> dict[str, float]:
    """Returns `knn_<k>` for each k, as fractions of the test set."""
    bank = subject.encode(evenly(subject.train, self.settings.bank))
    there = int(jnp.sum(bank[1] >= 0))
    k = tuple(dict.fromkeys(min(k, there) for k in self.settings.k))
    if k != self.settings.k:
      subject.note(
        f"k={self.settings.k} is lowered to {k}: there are only {there} images"
        " to be neighbours"
      )
    found = knn.accuracy(
      *bank,
      *subject.encode(subject.test),
      k=k,
      temperature=self.settings.temperature,
      num_classes=subject.train.num_classes,
      mesh=subject.reader.partitioner.mesh,
    )
    return {f"knn_{k}": accuracy for k, accuracy in found.items()}


# The class token of a ViT after its last norm; the mean over the map of a
# ResNet, and over the patches of a ViT without a class token.
_CLS = ("cls", "final")
# The mean over the map of a ResNet, or over the patches of a ViT.
_POOLED = ("pooled", "final")
_KNN = NearestNeighbours(KNN(k=(10, 20, 100, 200), temperature=0.07))
_STRETCHED = functools.partial(
  Frozen, features=_POOLED, resize=None, interpolation="bilinear"
)

PROTOCOLS: dict[str, Frozen] = {
  "knn-dino": Frozen(1, _KNN, _CLS),
  "knn-mmselfsup": Frozen(1, _KNN, _POOLED, interpolation="bilinear"),
  # The notebook classifies the output of its whole network, with the head.
  "knn-moco-cifar": Frozen(
    1,
    NearestNeighbours(KNN(k=(200,), temperature=0.1)),
    ("projector", "final"),
    resize=1.0,
    interpolation="bilinear",
  ),
  "svm-mmselfsup": _STRETCHED(1, SVM()),
  "svm-lowshot": _STRETCHED(1, LowShot()),
  "logreg-dinov2": Frozen(1, LogisticRegression(), _CLS, resize=1.0),
  "label-free": Frozen(1, LabelFree(), ("final",)),
  "label-free-projector": Frozen(1, LabelFree(), ("projector",)),
}


def evaluate(
  run: Run,
  protocol: Frozen,
  train: Images,
  test: Images | None,
  *,
  batch_size: int = 512,
  note: Callable[[str], None] = print,
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
  """Evaluates a network by a protocol; all processes call it together.

  Args:
    run: the network, with its BatchNorm's running statistics.
    protocol: one of PROTOCOLS.
    train: the training set: the bank of neighbours, the images to fit to.
    test: the test set; a protocol without labels does not read it.
    batch_size: images encoded at once, over all devices; rounded up to a
      multiple of them.
    note: called with messages, such as of images that cannot be decoded.
    devices: devices to run on; all by default.

  Returns:
    Results by name; accuracies and mean average precisions are fractions.

  Raises:
    ConfigError: the sets lack the labels that the protocol takes, or images or
      classes that it needs; their channels are not those of the network; more
      images cannot be decoded than `config.data.max_bad` allows; the network
      has no such features; scikit-learn is missing; or the protocol is for one
      process, and there are several.
  """
  _check(protocol, train, test)
  for images in (train, test):
    if images is not None:
      run.data.check_channels(images)
  partitioner = parallel.Partitioner.create(parallel.Parallel(), devices)
  data = dataclasses.replace(run.data, centre=protocol.view(run.image_size))
  reader = Reader(data, partitioner, batch_size)
  features = _features(run, protocol)
  subject = Subject(run, features, reader, train, test, note)
  return protocol.measure(subject)


def _check(protocol: Frozen, train: Images, test: Images | None) -> None:
  measure = protocol.measure
  if measure.labelled:
    for name, images in (("training", train), ("test", test)):
      if images is None or images.num_classes is None:
        lack = "there is no test set" if images is None else "it has no labels"
        raise ConfigError(
          f"the {name} set: {lack}, which this protocol needs. Give a labelled"
          " one, or choose the protocol 'label-free'."
        )
    if train.num_classes < 2:
      raise ConfigError(
        "the training set has one class, and this protocol tells classes apart."
        " Give a set of two or more, or choose the protocol 'label-free'."
      )
    if train.num_classes != test.num_classes:
      raise ConfigError(
        f"the training set has {train.num_classes} classes, and the test set"
        f" {test.num_classes}. Give two sets of the same classes."
      )
  if measure.on_host:
    if jax.process_count() > 1:
      raise ConfigError(
        f"this protocol runs in one process, and there are"
        f" {jax.process_count()}. Run it in one, or choose one of kNN."
      )
    try:
      import sklearn  # noqa: F401
    except ImportError as error:
      raise ConfigError(
        "this protocol needs scikit-learn, which is not installed: pip install"
        " 'sslx[evaluate]'"
      ) from error


def _features(run: Run, protocol: Frozen) -> str:
  """The first of the protocol's features that the network has."""
  shape = (2, run.image_size, run.image_size, run.data.channels)
  blank = jax.ShapeDtypeStruct(shape, jnp.float32)
  there = jax.eval_shape(run.method.encode, run.params, run.model_state, blank)
  for name in protocol.features:
    if name in there:
      return name
  raise ConfigError(
    f"the protocol measures the features {' or '.join(protocol.features)}; this"
    f" network has {', '.join(there)}. Choose another protocol."
  )
