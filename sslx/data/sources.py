"""Opens a set of images: the generated shapes, a TFDS set, or a folder.

A set of small images of one size is read into memory, and its views are cut on
the device. For any other set, encoded images are read batch by batch, and views
are cut on the host. TFDS sets are read from ArrayRecord files. Reading needs no
TensorFlow; only downloading and preparing a set does.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from sslx.config import ConfigError
from sslx.data import builders, files, records, shapes
from sslx.data.builders import Source
from sslx.data.sets import Arrays, Images

# Sets from outside sslx, added by modules in `runtime.custom_imports`. Maps a
# name to a function that opens a split of a Source, as `load` does.
SOURCES: dict[str, Callable[[Source, str], Images | None]] = {}

# Images of one size up to this side are held in memory. The limit does not
# depend on the available memory, because host and device draw different views.
IN_MEMORY_SIDE = 96


def named(
  own: Source,
  data: str | None,
  data_dir: str | None,
  train: str | None = None,
  test: str | None = None,
) -> Source:
  """Returns the set that a command line names.

  Args:
    own: the set of the run, which is meant if `data` is None.
    data: a folder of images, or the name of a set.
    data_dir: folder of the named set; that of `own` by default.
    train: split to train on; if the set is `own`, its own by default.
    test: split to evaluate on, likewise.
  """
  if data is not None and epath.Path(data).is_dir():
    return Source("folder", data, train=train, test=test)
  folder = data_dir or own.data_dir
  if data is not None:
    return Source(data, folder, False, train, test)
  return dataclasses.replace(
    own, data_dir=folder, train=train or own.train, test=test or own.test
  )


def load(
  source: Source,
  split: Literal["train", "test"],
  classes: tuple[str, ...] | None = None,
) -> Images | None:
  """Opens a split; sets of small images of one size are read into memory.

  Args:
    source: the set and the names of its splits.
    split: whether to open `source.train` or `source.test`.
    classes: the classes of the training split, if `split` is the test split of
      a folder.

  Returns:
    Images in the order of their files; None if the source names no test split
    and the set has none.

  Raises:
    ConfigError: the set or the split does not exist; it is missing or
      incomplete and cannot be prepared here; it is damaged; it holds no images;
      or it does not fit into memory. Damage inside a file is detected when the
      damaged record is read, everything else before the first image is read.
  """
  if source.name in SOURCES:
    images = SOURCES[source.name](source, split)
    _check_class(source, split, images)
    return images
  name = {"train": source.train, "test": source.test}[split]
  if source.name == "shapes":
    try:
      images, labels = shapes.load(name or split)
    except ValueError as error:
      raise ConfigError(f"{builders.CONFIG.of(source)}: {error}") from error
    return Arrays(images, labels, shapes.NUM_CLASSES)
  if source.name == "folder":
    return files.open_files(source.data_dir, name, split, classes)

  builder = builders.prepared(source)
  features = _check_features(source, builder)
  if name is None:
    usual = {"train": ("train",), "test": ("test", "validation")}[split]
    there = [x for x in usual if x in builder.info.splits]
    if not there and split == "test":
      return None
    name = there[0] if there else usual[0]
  try:
    info = builder.info.splits[name]
  except (KeyError, ValueError) as error:
    raise ConfigError(_no_split(source, name, builder.info.splits)) from error
  where = f"{builders.CONFIG.of(source)}, split {name!r}"
  images = records.Records(
    where,
    builders.again(source, builder),
    builder,
    name,
    info,
    features.num_classes,
    tensor=features.tensor,
  )
  side = max(features.shape[:2], key=lambda n: math.inf if n is None else n)
  if side is not None and side <= IN_MEMORY_SIDE and features.tensor is None:
    return images.to_memory(features.shape)
  return images


def _check_class(source: Source, split: str, images: Any) -> None:
  """Raises ConfigError if a set from outside does not keep to the interface."""
  if images is None and split == "test":
    return
  cls = type(images)
  told = (
    f"{builders.CONFIG.of(source)} opens {split!r} as a {cls.__module__}."
    f"{cls.__qualname__}, which"
  )
  if not isinstance(images, Images):
    raise ConfigError(f"{told} is not a subclass of data.sets.Images.")
  for name in ("__len__", "read"):
    if getattr(cls, name) is getattr(Images, name):
      raise ConfigError(f"{told} does not define `{name}`.")


class _Features(NamedTuple):
  shape: tuple[int | None, int | None, int]  # None if the size varies
  num_classes: int | None
  tensor: Any  # TFDS's feature of pixels; None of encoded images


def _check_features(source: Source, builder: Any) -> _Features:
  """The features of a set; raises ConfigError if it cannot be read."""
  import tensorflow_datasets as tfds

  key = builders.CONFIG.of(source)
  path, info = os.fspath(builder.data_path), builder.info
  if not os.path.exists(os.path.join(path, "dataset_info.json")):
    raise ConfigError(
      f"{key} is prepared only in part, without its dataset_info.json."
      f" {builders.again(source, builder)}"
    )
  formats = sorted(f.value for f in info.available_file_formats())
  if "array_record" not in formats:
    raise ConfigError(
      f"{key} is prepared as {', '.join(formats)}; sslx reads array_record."
      f" {builders.again(source, builder)}"
    )
  is_dict = isinstance(info.features, tfds.features.FeaturesDict)
  features = dict(info.features.items()) if is_dict else {}
  image, label = features.get("image"), features.get("label")
  is_image = isinstance(image, tfds.features.Image)
  is_tensor = isinstance(image, tfds.features.Tensor) and not is_image
  if not is_image and not (is_tensor and len(image.shape) == 3):
    raise ConfigError(
      f"{key} has no image under 'image'; its features are {info.features}."
      " Choose a set of images."
    )
  if image.np_dtype != np.uint8:
    raise ConfigError(
      f"{key} has images of {np.dtype(image.np_dtype)}, not uint8. Choose"
      " another set."
    )
  labelled = isinstance(label, tfds.features.ClassLabel)
  num_classes = label.num_classes if labelled else None
  if image.shape[2] is None:
    raise ConfigError(
      f"{key} has images of shape {image.shape}, whose number of channels"
      " varies. Choose another set."
    )
  return _Features(image.shape, num_classes, None if is_image else image)


def _no_split(source: Source, split: str, known: Iterable[str]) -> str:
  return (
    f"{builders.CONFIG.of(source)} has no split {split!r}; it has"
    f" {', '.join(map(repr, known))}."
  )
