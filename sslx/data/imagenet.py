"""Reads ImageNet 2012 from its two official tar files or the usual folders.

The tar files are read in place. Labels are numbered as in TFDS. The list of
classes and the labels of the validation images come from the TFDS package.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tarfile
from concurrent import futures

import numpy as np

from sslx.config import ConfigError
from sslx.data import files
from sslx.data.sets import Images

_TRAIN, _VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_SIZES = {"train": 1_281_167, "validation": 50_000}
# Minimum and maximum number of images per class.
_OF_A_CLASS = {"train": (732, 1300), "validation": (50, 50)}
_BLOCK = 512  # bytes of a tar block; two blocks of zeros end the file
_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


@dataclasses.dataclass(frozen=True, eq=False)
class Tar(Images):
  """Images in a tar file, or in tar files inside a tar file.

  Attributes:
    path: path of the outer tar file.
    names: bytes[n], names of the images.
    offsets: int64[n], where the images begin in the outer file, in bytes.
    sizes: int64[n], sizes of the images in bytes.
    labels: int32[n].
    num_classes: number of classes of ImageNet.
  """

  path: str
  names: np.ndarray
  offsets: np.ndarray
  sizes: np.ndarray
  labels: np.ndarray
  num_classes: int

  def __len__(self) -> int:
    return len(self.names)

  def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """See `sets.Images`."""
    images = []
    with open(self.path, "rb", buffering=0) as file:
      for index in indices:
        try:
          data = os.pread(
            file.fileno(), int(self.sizes[index]), int(self.offsets[index])
          )
        except OSError:
          data = b""
        images.append(data)
    return images, self.labels[indices]

  def name(self, index: int) -> str:
    """See `sets.Images`."""
    return f"{self.file_name(index)} in {self.path}"

  def file_name(self, index: int) -> str:
    """See `sets.Images`."""
    return self.names[index].decode()


class Folder(files.Files):
  """Images in files, named by the last part of their path as in TFDS."""

  def file_name(self, index: int) -> str:
    """See `sets.Images`."""
    return os.path.basename(super().file_name(index))


def classes() -> tuple[str, ...]:
  """WordNet IDs of the 1000 classes, in the order of their labels."""
  return tuple(_lines("labels.txt"))


def _lines(name: str) -> list[str]:
  import tensorflow_datasets as tfds

  path = tfds.core.tfds_path(os.path.join("datasets/imagenet2012", name))
  return path.read_text().split()


def open_splits(
  folder: str, partial: bool = False
) -> tuple[dict[str, Tar | Folder], list[str]]:
  """Finds the images of both splits.

  Args:
    folder: a folder with the two tar files under their official names, or with
      the sub-folders `train` and `val`. `train` has a folder for each class;
      `val` has such folders or is flat.
    partial: accept numbers of images that differ from the original's.

  Returns:
    The splits by their TFDS names, and notes for the user.

  Raises:
    ConfigError: the images do not exist, are not ImageNet's, are truncated, or
      differ in number from the original.
  """
  where = f"--from={folder!r}"
  folder = os.path.expanduser(folder)
  tars = [os.path.join(folder, name) for name in (_TRAIN, _VAL)]
  there = [os.path.exists(tar) for tar in tars]
  if all(there):
    try:
      splits = {"train": _train_tar(tars[0]), "validation": _val_tar(tars[1])}
    except (OSError, tarfile.TarError) as error:
      raise ConfigError(
        f"{where}: a tar file cannot be read to its end: {error}. Compare its"
        " size with the original's, or download it again."
      ) from error
  elif any(there):
    raise ConfigError(
      f"{where} has only one of {_TRAIN} and {_VAL}. Put the other one into the"
      " same folder."
    )
  else:
    for name in ("train", "val"):
      if not os.path.isdir(os.path.join(folder, name)):
        raise ConfigError(
          f"{where} has neither {_TRAIN} and {_VAL}, to be downloaded from"
          f" https://image-net.org/download-images, nor the folder {name!r} of"
          " their images. Give the folder that they are in."
        )
    splits = {
      "train": _folder(folder, "train"),
      "validation": _folder(folder, "val"),
    }
  wrong = [x for name, images in splits.items() for x in _counts(name, images)]
  if wrong and not partial:
    raise ConfigError(
      f"{where} is not all of ImageNet 2012: {'; '.join(wrong)}. Compare the"
      " sizes of the files with the originals', or accept it: --partial"
    )
  return splits, [f"{where}: {text}." for text in wrong]


def _counts(split: str, images: Tar | Folder) -> list[str]:
  """Lists differences from the original's numbers of images."""
  found = []
  if len(images) != _SIZES[split]:
    found.append(
      f"{split} has {len(images):,} images and the original {_SIZES[split]:,}"
    )
  counts = np.bincount(images.labels, minlength=images.num_classes)
  least, most = _OF_A_CLASS[split]
  wrong = np.flatnonzero((counts < least) | (counts > most))
  if len(wrong):
    each = f"{least}" if least == most else f"{least} to {most}"
    found.append(
      f"{len(wrong)} of the {len(counts)} classes in {split} do not have {each}"
      f" images, such as {classes()[wrong[0]]} with {counts[wrong[0]]}"
    )
  return found


def _train_tar(path: str) -> Tar:
  """Indexes the tar file that contains one tar file per class."""
  members = _members(path, 0, os.path.getsize(path))
  inner = [member for member in members if member[0].endswith(".tar")]
  synsets = [name[: -len(".tar")] for name, *_ in inner]
  numbers = _numbers(synsets, path)
  with futures.ThreadPoolExecutor() as pool:  # The threads wait for the disk.
    found = pool.map(lambda item: _members(path, *item[1:]), inner)
    members = [
      (*member, number)
      for number, part in zip(numbers, found, strict=True)
      for member in part
    ]
  return _tar(path, members)


def _val_tar(path: str) -> Tar:
  members = _members(path, 0, os.path.getsize(path))
  labels = _val_labels([name for name, _, _ in members], path)
  return _tar(path, [(*m, n) for m, n in zip(members, labels, strict=True)])


def _members(path: str, offset: int, size: int) -> list[tuple[str, int, int]]:
  """Name, offset and size of the files in the tar file of `size` at `offset`.

  Raises:
    tarfile.TarError: it is damaged or truncated. `tarfile` itself does not
      detect this: it takes the damaged place for the end of the file.
  """
  with open(path, "rb") as file:
    file.seek(offset)
    with tarfile.open(fileobj=file, mode="r:") as tar:
      members = list(tar)
      end = members[-1].offset_data + members[-1].size if members else offset
    end += -(end - offset) % _BLOCK
    where = f"{os.path.basename(path)} is damaged at byte {end:,}"
    if end > offset + size:
      raise tarfile.ReadError(f"{where}, where it ends within a file")
    file.seek(end)
    rest = offset + size - end
    if rest < 2 * _BLOCK:
      raise tarfile.ReadError(f"{where}, where the mark of its end is missing")
    while rest:
      block = file.read(min(rest, 1 << 20))
      if not block or block.strip(b"\0"):
        raise tarfile.ReadError(f"{where}: no file begins there")
      rest -= len(block)
  return [
    (os.path.basename(m.name), m.offset_data, m.size)
    for m in members
    if m.isfile()
  ]


def _tar(path: str, members: list[tuple[str, int, int, int]]) -> Tar:
  if not members:
    raise ConfigError(f"{path} holds no images. Download it again.")
  names, offsets, sizes, labels = zip(*members, strict=True)
  return Tar(
    path,
    np.array([os.fsencode(name) for name in names]),
    np.array(offsets, np.int64),
    np.array(sizes, np.int64),
    np.array(labels, np.int32),
    len(classes()),
  )


def _folder(folder: str, split: str) -> Folder:
  """Opens a split in files: one folder per class, or flat for validation."""
  found = files.open_files(folder, split, "train", key="--from")
  if found.classes is None:
    names = [os.path.basename(found.file_name(i)) for i in range(len(found))]
    labels = _val_labels(names, found.root)
  else:
    numbers = np.array(_numbers(found.classes, found.root), np.int32)
    labels = numbers[found.labels]
  labels = np.array(labels, np.int32)
  return Folder(found.root, found.paths, labels, classes(), [])


def _numbers(synsets: list[str], path: str) -> list[int]:
  numbers = {name: i for i, name in enumerate(classes())}
  unknown = sorted({*synsets} - {*numbers})
  if unknown or not synsets:
    raise ConfigError(
      f"{path} is not ImageNet 2012: {len(unknown)} of its {len(synsets)} parts"
      f" are not one of the 1000 classes, such as {unknown[:3]}. Prepare a set"
      " of your own under another name."
    )
  return [numbers[name] for name in synsets]


def _val_labels(names: list[str], path: str) -> list[int]:
  """Labels of validation images, looked up by the numbers in their names."""
  labels = _lines("validation_labels.txt")
  matches = [_VAL_NAME.fullmatch(name) for name in names]
  wrong = [
    name
    for name, match in zip(names, matches, strict=True)
    if match is None or not 1 <= int(match[1]) <= len(labels)
  ]
  if wrong:
    raise ConfigError(
      f"{path}: {len(wrong)} images are not called ILSVRC2012_val_00000001.JPEG"
      f" to ..._{len(labels):08}.JPEG, such as {wrong[0]!r}, so their classes"
      " are not known. Put the images of each class into a folder of its name."
    )
  numbers = {name: i for i, name in enumerate(classes())}
  return [numbers[labels[int(match[1]) - 1]] for match in matches]
