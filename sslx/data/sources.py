"""Where images come from: the generated shapes, a TFDS set, or a folder.

A set of small images of one size is read whole into memory, and its views are
cut on the device. Of any other set the encoded images are read batch by batch,
and its views are cut on the host. TFDS sets are read from ArrayRecord files,
which takes no TensorFlow; only downloading and preparing one does.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np

from sslx.config import ConfigError
from sslx.data import files, records, shapes
from sslx.data.fingerprint import Fingerprint, digest

# Sets from outside sslx, which a module of `runtime.custom_imports` adds: name
# to a function that opens a split of a Source, as `load` does.
SOURCES: dict[str, Callable[[Source, str], Any]] = {}

# Images of one size up to this side are held in memory. Fixed, and not a matter
# of how much memory there is: where views are cut decides what is drawn.
IN_MEMORY_SIDE = 96


@dataclasses.dataclass(frozen=True)
class Source:
  """Which set, and which of its splits.

  Attributes:
    name: "shapes"; "folder", of image files; or a TFDS name: "cifar10",
      "name/config", "name:1.0.0".
    data_dir: the folder of image files, or the TFDS directory, of which None
      is TFDS's default, TFDS_DATA_DIR or ~/tensorflow_datasets.
    prepare: whether to download and prepare a set that is not there.
    train: the split to train on. Of TFDS any slice such as "train[:10%]", and
      None is "train"; of a folder see `files.open_files`.
    test: the split to evaluate on; None is "test" or else "validation", if
      there is one.
  """

  name: str
  data_dir: str | None = None
  prepare: bool = True
  train: str | None = None
  test: str | None = None


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

  def __len__(self) -> int:
    return len(self.images)

  def fingerprint(self) -> Fingerprint:
    """Of all that it holds."""
    arrays = {"pixels": self.images, "labels": self.labels}
    return {
      name: digest([np.ascontiguousarray(array)])
      for name, array in arrays.items()
      if array is not None
    }


class Encoded(Protocol):
  """A set of encoded images, read when they are needed.

  It may be sent to a worker process. `num_classes` is None if the images have
  no labels.
  """

  num_classes: int | None

  def __len__(self) -> int:
    """Number of images."""

  def read(
    self, indices: Sequence[int]
  ) -> tuple[list[bytes | np.ndarray], np.ndarray]:
    """Images, encoded or as pixels uint8[h, w, 3], and labels, int32[n].

    The label is -1 where there is none. An image that cannot be read is b"".
    """

  def name(self, index: int) -> str:
    """Where an image is, for messages."""

  def fingerprint(self) -> Fingerprint:
    """What it knows of itself without reading an image."""


def load(
  source: Source,
  split: Literal["train", "test"],
  classes: tuple[str, ...] | None = None,
) -> Arrays | Encoded | None:
  """Opens a split; sets of small images of one size are read into memory.

  Args:
    source: which set.
    split: which of the two splits that the source names.
    classes: of the training split, if `split` is the test split of a folder.

  Returns:
    Images in the order of their files; None if the source names no test split
    and the set has none.

  Raises:
    ConfigError: the set or the split does not exist; is not prepared, or only
      in part, and cannot be prepared here; is damaged; or does not hold images,
      or more of them than memory does. Damage inside a file shows when that
      place is read, all else before the first image is.
  """
  if source.name in SOURCES:
    return SOURCES[source.name](source, split)
  name = {"train": source.train, "test": source.test}[split]
  if source.name == "shapes":
    if name not in (None, split):
      raise ConfigError(_no_split(source, name, ("train", "test")))
    images, labels = shapes.generate(split)
    return Arrays(images, labels, shapes.NUM_CLASSES)
  if source.name == "folder":
    return files.open_files(source.data_dir, name, split, classes)

  builder = prepared(source)
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
  where = f"{CONFIG.of(source)}, split {name!r}"
  images = records.Records(
    where, _again(source, builder), builder, name, info, features.num_classes
  )
  side = max(features.shape[:2], key=lambda n: math.inf if n is None else n)
  if side is not None and side <= IN_MEMORY_SIDE and not features.raw:
    return images.to_memory(features.shape)
  return images


class Keys(NamedTuple):
  """What errors call the name of a set, and the folder it is in."""

  name: str
  folder: str

  def of(self, source: Source) -> str:
    """The name, and what it is set to."""
    return f"{self.name}={source.name!r}"


CONFIG = Keys("config.data.source", "config.data.data_dir")
ARGUMENTS = Keys("NAME", "--out")  # Of sslx.prepare.


def prepared(source: Source, keys: Keys = CONFIG) -> Any:
  """TFDS's builder of a set, which is prepared first if it is not there.

  Raises:
    ConfigError: there is no such set, or it cannot be prepared here.
  """
  _check_data_dir(source.data_dir, keys.folder)
  builder = _builder(source, keys)
  if not os.path.exists(builder.data_path):
    _prepare(source, builder, keys)
    builder = _builder(source, keys)
  return builder


def _check_data_dir(data_dir: str | None, key: str) -> None:
  """Refuses a directory that is not there, rather than fill a mistyped one."""
  if data_dir is None:
    return
  key = f"{key}={data_dir!r}"
  path = os.path.expanduser(data_dir)
  if "://" in data_dir:
    raise ConfigError(
      f"{key} is a URL; ArrayRecord files are read from a file system. Mount"
      " it, or copy the set to each host: python -m sslx.prepare NAME"
      f" --from={data_dir} --stage=/a/local/folder"
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


def _builder(source: Source, keys: Keys) -> Any:
  """TFDS's builder of the set, prepared or not."""
  import tensorflow_datasets as tfds  # Takes a second; `shapes` needs none.

  data_dir = source.data_dir and os.path.expanduser(source.data_dir)
  try:
    return tfds.builder(source.name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    names = ["shapes", *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(source.name, names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ConfigError(
      f"{keys.of(source)} is not 'shapes', not a set that TFDS"
      f" {tfds.__version__} knows, and not prepared in"
      f" {data_dir or 'the default data_dir'}.{hint} See"
      " https://www.tensorflow.org/datasets/catalog/overview for all names."
    ) from error
  except Exception as error:  # TFDS raises many kinds, AssertionError too.
    raise ConfigError(
      f"{keys.of(source)} cannot be opened: {error}\nCorrect the name, version"
      " or config; if they are right, the set's json files are damaged: delete"
      " its folder and prepare it again."
    ) from error


def _command(source: Source) -> str:
  """What prepares the set, here or on another machine."""
  command = f"python -m sslx.prepare {shlex.quote(source.name)}"
  if source.data_dir is not None:
    command += f" --out={shlex.quote(os.path.expanduser(source.data_dir))}"
  if source.name.partition(":")[0] == "imagenet2012":
    command += " --from=FOLDER_OF_ITS_TAR_FILES"
  return command


def _again(source: Source, builder: Any) -> str:
  return (
    f"Delete {os.fspath(builder.data_path)} and prepare the set again:"
    f" {_command(source)}"
  )


def _prepare(source: Source, builder: Any, keys: Keys) -> None:
  """Downloads and prepares the set, or says why that cannot be."""
  folder, version = os.path.split(builder.data_path)
  missing = (
    f"{keys.of(source)} is not prepared: {builder.data_path} does not exist."
  )
  found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  partial = [f for f in found if "incomplete" in f and version in f]
  if partial:
    ours = partial[0].endswith(".incomplete")
    advice = "go on" if ours else "delete that folder and prepare the set again"
    raise ConfigError(
      f"{missing} {os.path.join(folder, partial[0])} is what an unfinished"
      f" preparation left. If none is still running, {advice}:"
      f" {_command(source)}"
    )
  versions = [f for f in found if f[:1].isdigit()]
  if versions:
    other = f"{source.name.partition(':')[0]}:{versions[-1]}"
    missing += f" Version {versions[-1]} is there: to use it, write {other!r}."
  if not source.prepare:
    hint = ", or set config.data.prepare=True" if keys is CONFIG else ""
    raise ConfigError(f"{missing} Prepare it{hint}: {_command(source)}")
  if source.name.partition(":")[0] == "imagenet2012":
    raise ConfigError(
      f"{missing} Its files have to be downloaded by hand, from"
      f" https://image-net.org/download-images. Then: {_command(source)}"
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


class _Features(NamedTuple):
  shape: tuple[int | None, int | None, int]  # None where it varies
  num_classes: int | None
  raw: bool  # pixels, not an encoded image


def _check_features(source: Source, builder: Any) -> _Features:
  """What a set that can be read holds."""
  import tensorflow_datasets as tfds

  key = CONFIG.of(source)
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
  raw = isinstance(image, tfds.features.Tensor) and len(image.shape) == 3
  if not isinstance(image, tfds.features.Image) and not raw:
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
  is_image = isinstance(image, tfds.features.Image)
  return _Features(image.shape, num_classes, raw=not is_image)


def _no_split(source: Source, split: str, known: Iterable[str]) -> str:
  return (
    f"{CONFIG.of(source)} has no split {split!r}; it has"
    f" {', '.join(map(repr, known))}."
  )
