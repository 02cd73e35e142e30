"""Finds the TFDS builder of a data set, and prepares the set if needed."""

from __future__ import annotations

import dataclasses
import difflib
import os
import shlex
from typing import Any, NamedTuple

import jax

from sslx.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set and its splits.

  Attributes:
    name: "shapes"; "folder", for a folder of image files; or a TFDS name:
      "cifar10", "name/config", "name:1.0.0".
    data_dir: the folder of image files, or the TFDS directory. None is TFDS's
      default: TFDS_DATA_DIR or ~/tensorflow_datasets.
    prepare: whether to download and prepare a set that does not exist.
    train: the split to train on. For a TFDS set, any slice such as
      "train[:10%]"; None is "train". For a folder, see `files.open_files`.
    test: the split to evaluate on. None is "test", or "validation" if there is
      no "test".
  """

  name: str
  data_dir: str | None = None
  prepare: bool = True
  train: str | None = None
  test: str | None = None


class Keys(NamedTuple):
  """How error messages refer to the name of a set and to its folder."""

  name: str
  folder: str

  def of(self, source: Source) -> str:
    """The key of the name, and its value."""
    return f"{self.name}={source.name!r}"


CONFIG = Keys("config.data.source", "config.data.data_dir")
ARGUMENTS = Keys("NAME", "--out")  # arguments of sslx.prepare


def prepared(source: Source, keys: Keys = CONFIG) -> Any:
  """The TFDS builder of a set; prepares the set first if it does not exist.

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
  """Rejects a directory that does not exist: its name may be mistyped."""
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
  """The TFDS builder of the set, prepared or not."""
  # Imported here because it takes a second and `shapes` does not need it.
  import tensorflow_datasets as tfds

  data_dir = source.data_dir and os.path.expanduser(source.data_dir)
  try:
    return tfds.builder(source.name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    _check_unfinished(source, keys, data_dir)
    names = ["shapes", *tfds.list_builders(with_community_datasets=False)]
    near = difflib.get_close_matches(source.name, names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ConfigError(
      f"{keys.of(source)} is not 'shapes', not a set that TFDS"
      f" {tfds.__version__} knows, and not prepared in"
      f" {data_dir or 'the default data_dir'}.{hint} See"
      " https://www.tensorflow.org/datasets/catalog/overview for all names."
    ) from error
  except Exception as error:  # TFDS raises many kinds, even AssertionError.
    raise ConfigError(
      f"{keys.of(source)} cannot be opened: {error}\nCorrect the name, version"
      " or config; if they are right, the set's json files are damaged: delete"
      " its folder and prepare it again."
    ) from error


def _check_unfinished(source: Source, keys: Keys, data_dir: str | None) -> None:
  """Reports what exists of a set that TFDS does not find."""
  folder = os.path.join(data_dir or "", source.name.partition(":")[0])
  if data_dir is None or not os.path.isdir(folder):
    return
  found = sorted(os.listdir(folder))
  versions = [name for name in found if name[:1].isdigit()]
  whole = [name for name in versions if "incomplete" not in name]
  if whole:
    raise ConfigError(
      f"{keys.of(source)}: {os.path.join(folder, whole[-1])} has no readable"
      " features.json and dataset_info.json. Put them back, or prepare the set"
      " again."
    )
  if versions:
    raise ConfigError(
      f"{keys.of(source)}: {os.path.join(folder, versions[-1])} is what an"
      " unfinished preparation left. If none is still running, go on by the"
      " same command, or delete that folder."
    )


def command(source: Source) -> str:
  """The command that prepares the set, here or on another machine."""
  command = f"python -m sslx.prepare {shlex.quote(source.name)}"
  if source.data_dir is not None:
    command += f" --out={shlex.quote(os.path.expanduser(source.data_dir))}"
  if source.name.partition(":")[0] == "imagenet2012":
    command += " --from=FOLDER_OF_ITS_TAR_FILES"
  return command


def again(source: Source, builder: Any) -> str:
  return (
    f"Delete {os.fspath(builder.data_path)} and prepare the set again:"
    f" {command(source)}"
  )


def _prepare(source: Source, builder: Any, keys: Keys) -> None:
  """Downloads and prepares the set; raises ConfigError if it cannot."""
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
      f" {command(source)}"
    )
  versions = [f for f in found if f[:1].isdigit()]
  if versions:
    other = f"{source.name.partition(':')[0]}:{versions[-1]}"
    missing += f" Version {versions[-1]} is there: to use it, write {other!r}."
  if not source.prepare:
    hint = ", or set config.data.prepare=True" if keys is CONFIG else ""
    raise ConfigError(f"{missing} Prepare it{hint}: {command(source)}")
  if source.name.partition(":")[0] == "imagenet2012":
    raise ConfigError(
      f"{missing} Its files have to be downloaded by hand, from"
      f" https://image-net.org/download-images. Then: {command(source)}"
    )
  if jax.process_count() > 1:
    raise ConfigError(
      f"{missing} {jax.process_count()} processes would each prepare it. Do"
      f" so once before you start them: {command(source)}"
    )
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ConfigError(
      f"{missing} Preparing it takes TensorFlow, here or on any other"
      " machine (reading it does not): pip install 'sslx[prepare]' and then"
      f" {command(source)}"
    ) from error
  try:
    # Otherwise TensorFlow would allocate GPU memory.
    tf.config.set_visible_devices([], "GPU")
    builder.download_and_prepare(file_format="array_record")
  except Exception as error:  # Network, disk, manual downloads, anything.
    raise ConfigError(
      f"{missing} Preparing it failed: {type(error).__name__}: {error}\nOnce"
      f" that is put right, run again, or: {command(source)}"
    ) from error
