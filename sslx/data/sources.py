"""Where images come from: the generated shapes, or a TFDS data set.

A set is read whole into memory as uint8. TFDS sets are read from ArrayRecord
files, which takes no TensorFlow; only downloading and preparing one does.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import shlex
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, Literal

import cv2
import jax
import numpy as np

from sslx.config import ConfigError
from sslx.data import shapes

# Sets from outside sslx, which a module of `runtime.custom_imports` adds: name
# to a function that opens a split of a Source, as `load` does.
SOURCES: dict[str, Callable[[Source, str], Any]] = {}

_CHUNK = 1000  # records that a thread reads and decodes at a time


@dataclasses.dataclass(frozen=True)
class Source:
  """Which set, and which of its splits.

  Attributes:
    name: "shapes", or a TFDS name: "cifar10", "name/config", "name:1.0.0".
    data_dir: TFDS directory; None is TFDS's default, TFDS_DATA_DIR or
      ~/tensorflow_datasets.
    prepare: whether to download and prepare a set that is not there.
    train: the split to train on; of TFDS, any slice such as "train[:10%]".
    test: the split to evaluate on.
  """

  name: str
  data_dir: str | None = None
  prepare: bool = True
  train: str = "train"
  test: str = "test"


@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
  """A set in memory.

  Attributes:
    images: uint8[n, h, w, 3], RGB.
    labels: int32[n] in [0, num_classes), or None if the images have no labels.
    num_classes: None if the images have no labels.
  """

  images: np.ndarray
  labels: np.ndarray | None
  num_classes: int | None


def load(source: Source, split: Literal["train", "test"]) -> Arrays:
  """Reads a split into memory, in the order of its files.

  Args:
    source: which set.
    split: which of the two splits that the source names.

  Raises:
    ConfigError: the set or the split does not exist; is not prepared, or only
      in part, and cannot be prepared here; is damaged; or does not hold images
      of one size, or more of them than memory does. Damage inside a file shows
      when that place is read, all else before the first image is.
  """
  if source.name in SOURCES:
    return SOURCES[source.name](source, split)
  name = {"train": source.train, "test": source.test}[split]
  if source.name == "shapes":
    if name not in ("train", "test"):
      raise ConfigError(_no_split(source, name, ("train", "test")))
    images, labels = shapes.generate(name)
    return Arrays(images, labels, shapes.NUM_CLASSES)

  _check_data_dir(source.data_dir)
  builder = _builder(source)
  if not os.path.exists(builder.data_path):
    _prepare(source, builder)
    builder = _builder(source)
  height, width, num_classes = _check_features(source, builder)
  return _read(source, builder, name, (height, width), num_classes)


def _check_data_dir(data_dir: str | None) -> None:
  """Refuses a directory that is not there, rather than fill a mistyped one."""
  if data_dir is None:
    return
  key = f"config.data.data_dir={data_dir!r}"
  path = os.path.expanduser(data_dir)
  if "://" in data_dir:
    raise ConfigError(
      f"{key} is a URL; ArrayRecord files are read from a file system. Copy"
      " the data to a local folder, or mount it."
    )
  if not os.path.exists(path):
    raise ConfigError(
      f"{key} does not exist. Correct it, or make it for a new data set:"
      f" mkdir -p {shlex.quote(path)}"
    )
  if not os.path.isdir(path):
    raise ConfigError(
      f"{key} is a file. Give the folder that holds the sets' folders."
    )
  if not os.access(path, os.R_OK | os.X_OK):
    raise ConfigError(
      f"{key} cannot be read by this user. Give read access, or another folder."
    )


def _builder(source: Source) -> Any:
  """TFDS's builder of the set, prepared or not."""
  import tensorflow_datasets as tfds  # Takes a second; `shapes` needs none.

  key = f"config.data.source={source.name!r}"
  data_dir = source.data_dir and os.path.expanduser(source.data_dir)
  try:
    return tfds.builder(source.name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    names = ["shapes", *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(source.name, names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ConfigError(
      f"{key} is not 'shapes', not a set that TFDS {tfds.__version__} knows,"
      f" and not prepared in {data_dir or 'the default data_dir'}.{hint} See"
      " https://www.tensorflow.org/datasets/catalog/overview for all names."
    ) from error
  except Exception as error:  # TFDS raises many kinds, AssertionError too.
    raise ConfigError(
      f"{key} cannot be opened: {error}\nCorrect the name, version or config;"
      " if they are right, the set's json files are damaged: delete its"
      " folder and prepare it again."
    ) from error


def _command(source: Source) -> str:
  """What prepares the set on a machine with TensorFlow.

  Not `tfds build`, which needs Apache Beam and more, whatever the set.
  """
  data_dir = ""
  if source.data_dir is not None:
    data_dir = f"data_dir={os.path.expanduser(source.data_dir)!r}, "
  return (
    'python -c "import tensorflow_datasets as tfds; tfds.builder('
    f"{source.name!r}, {data_dir}file_format='array_record')"
    '.download_and_prepare()"'
  )


def _again(source: Source, builder: Any) -> str:
  return (
    f"Delete {os.fspath(builder.data_path)} and prepare the set again:"
    f" {_command(source)}"
  )


def _prepare(source: Source, builder: Any) -> None:
  """Downloads and prepares the set, or says why that cannot be."""
  folder, version = os.path.split(builder.data_path)
  missing = (
    f"config.data.source={source.name!r} is not prepared:"
    f" {builder.data_path} does not exist."
  )
  found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  partial = [f for f in found if "incomplete" in f and version in f]
  if partial:
    raise ConfigError(
      f"{missing} {os.path.join(folder, partial[0])} is what an unfinished"
      " preparation left. If none is still running, delete that folder and"
      f" prepare the set again: {_command(source)}"
    )
  versions = [f for f in found if f[:1].isdigit()]
  if versions:
    other = f"{source.name.partition(':')[0]}:{versions[-1]}"
    missing += f" Version {versions[-1]} is there: to use it, write {other!r}."
  if not source.prepare:
    raise ConfigError(
      f"{missing} Prepare it, or set config.data.prepare=True:"
      f" {_command(source)}"
    )
  if jax.process_count() > 1:
    raise ConfigError(
      f"{missing} {jax.process_count()} processes would each prepare it. Do"
      f" so once before you start them: {_command(source)}"
    )
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ConfigError(
      f"{missing} Preparing it takes TensorFlow, here or on any other"
      " machine (reading it does not): pip install 'sslx[prepare]' and then"
      f" {_command(source)}"
    ) from error
  try:
    tf.config.set_visible_devices([], "GPU")  # Or it would take their memory.
    builder.download_and_prepare(file_format="array_record")
  except Exception as error:  # Network, disk, manual downloads, anything.
    raise ConfigError(
      f"{missing} Preparing it failed: {type(error).__name__}: {error}\nOnce"
      f" that is put right, run again, or: {_command(source)}"
    ) from error


def _check_features(
  source: Source, builder: Any
) -> tuple[int, int, int | None]:
  """Height, width and number of classes, of a set that can be read."""
  import tensorflow_datasets as tfds

  key = f"config.data.source={source.name!r}"
  path, info = os.fspath(builder.data_path), builder.info
  if not os.path.exists(os.path.join(path, "dataset_info.json")):
    raise ConfigError(
      f"{key} is prepared only in part, without its dataset_info.json."
      f" {_again(source, builder)}"
    )
  formats = sorted(f.value for f in info.available_file_formats())
  if "array_record" not in formats:
    raise ConfigError(
      f"{key} is prepared as {', '.join(formats)}; sslx reads array_record."
      f" {_again(source, builder)}"
    )
  is_dict = isinstance(info.features, tfds.features.FeaturesDict)
  features = dict(info.features.items()) if is_dict else {}
  image, label = features.get("image"), features.get("label")
  if not isinstance(image, tfds.features.Image):
    raise ConfigError(
      f"{key} has no image under 'image'; its features are {info.features}."
      " Choose a set of images."
    )
  height, width, _ = image.shape
  if height is None or width is None:
    raise ConfigError(
      f"{key} has images of varying size. They need to be cropped on the"
      " host, which is not supported yet: a set is held in memory as one"
      " array. Choose a set of one size, or resize this one when you"
      " prepare it."
    )
  if image.np_dtype != np.uint8:
    raise ConfigError(
      f"{key} has images of {np.dtype(image.np_dtype)}, not uint8. Choose"
      " another set."
    )
  labelled = isinstance(label, tfds.features.ClassLabel)
  return height, width, label.num_classes if labelled else None


def _read(
  source: Source,
  builder: Any,
  split: str,
  size: tuple[int, int],
  num_classes: int | None,
) -> Arrays:
  """Reads and decodes all records of a split, in threads."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.proto import tf_example_pb2

  where = f"config.data.source={source.name!r}, split {split!r}"
  again = _again(source, builder)
  try:
    info = builder.info.splits[split]
  except (KeyError, ValueError) as error:
    raise ConfigError(_no_split(source, split, builder.info.splits)) from error
  shape = (info.num_examples, *size, 3)
  _check_memory(where, split, shape)
  # Raw records: TFDS's own parser takes ten times as long as the bare protobuf.
  records = builder.as_data_source(
    split,
    deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
    file_format="array_record",
  )
  _check_shards(where, again, info.file_instructions)
  images = np.empty(shape, np.uint8)
  labels = np.full(len(images), -1, np.int32)

  def read(rows):
    for row, record in zip(rows, records.__getitems__(rows), strict=True):
      example = tf_example_pb2.Example.FromString(record).features.feature
      # OpenCV lets go of the GIL and takes a third of Pillow's time.
      image = cv2.imdecode(
        np.frombuffer(example["image"].bytes_list.value[0], np.uint8),
        cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
      )
      if image is None or image.shape != shape[1:]:
        raise ValueError(f"record {row} is not an image of {size}")
      images[row] = image
      if num_classes is not None:
        labels[row] = example["label"].int64_list.value[0]

  rows = range(len(images))
  chunks = [rows[i : i + _CHUNK] for i in rows[::_CHUNK]]
  try:
    with futures.ThreadPoolExecutor() as pool:
      list(pool.map(read, chunks))  # Raises here what a thread raised.
  except (RuntimeError, ValueError, cv2.error) as error:
    raise ConfigError(f"{where} is damaged: {error}. {again}") from error
  if num_classes is None or labels.min() < 0:  # TFDS's -1 is "not given".
    return Arrays(images, None, None)
  return Arrays(images, labels, num_classes)


def _check_memory(where: str, split: str, shape: tuple[int, ...]) -> None:
  need = math.prod(shape)
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  if need > memory:
    raise ConfigError(
      f"{where}: uint8{list(shape)} takes {need / 1e9:.0f} GB of memory and"
      f" this machine has {memory / 1e9:.0f} GB. Take a slice of the split,"
      f" such as {split + '[:10%]'!r}, or a smaller set."
    )


def _check_shards(where: str, again: str, shards: list[Any]) -> None:
  """Compares what is in each file with what dataset_info.json says."""
  from array_record.python import array_record_module

  for shard in shards:
    try:
      reader = array_record_module.ArrayRecordReader(os.fspath(shard.filename))
      found = reader.num_records()
      reader.close()  # Raises what went wrong when the file was opened.
    except RuntimeError as error:
      raise ConfigError(
        f"{where}: {shard.filename} is missing, cut short or unreadable:"
        f" {error}. {again}"
      ) from error
    if found != shard.examples_in_shard:
      raise ConfigError(
        f"{where}: {shard.filename} holds {found} records where"
        f" dataset_info.json says {shard.examples_in_shard}. {again}"
      )


def _no_split(source: Source, split: str, known: Iterable[str]) -> str:
  return (
    f"config.data.source={source.name!r} has no split {split!r}; it has"
    f" {', '.join(map(repr, known))}."
  )
