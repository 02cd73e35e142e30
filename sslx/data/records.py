"""Reads images from the ArrayRecord files of a prepared TFDS set."""

from __future__ import annotations

import functools
import itertools
import math
import os
import resource
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np

from sslx.config import ConfigError
from sslx.data import crops, sums
from sslx.data.fingerprint import Fingerprint, digest
from sslx.data.sets import Arrays, Images

_CHUNK = 1000  # records that a thread reads and decodes at a time
_OTHER_FILES = 512  # files that a process may open besides those of a set
_AHEAD = 16  # records that a thread of `_pool` reads at a time


class Records(Images):
  """One split with random and bulk access."""

  def __init__(
    self,
    where: str,
    again: str,
    builder: Any,
    split: str,
    info: Any,
    num_classes: int | None,
    tensor: Any = None,
  ):
    """Checks every file against the set's metadata; reads no image.

    Args:
      where: name of the set and the split, for messages.
      again: how to prepare the set again, for messages.
      builder: the TFDS builder.
      split: a split or a slice of one.
      info: TFDS's info on the split.
      num_classes: number of classes; None if the images have no labels.
      tensor: TFDS's feature of images that are stored as pixels [h, w, c]; None
        for encoded images.

    Raises:
      ConfigError: a file is missing, truncated or has an unexpected number of
        records; or there are more files than this process may open.
    """
    # Imported here because it takes a second and `shapes` does not need it.
    import tensorflow_datasets as tfds

    self._where, self._again = where, again
    self.num_classes = num_classes
    self._parser = None
    if tensor is not None:
      self.channels = tensor.shape[2]
      self._parser = tfds.features.FeaturesDict({"image": tensor})
    # Raw records: TFDS's own parser takes ten times as long as protobuf alone.
    self._records = builder.as_data_source(
      split,
      deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
      file_format="array_record",
    )
    self._shards = info.file_instructions
    _let_open(where, len(self._shards))
    _check_shards(where, again, self._shards)

  def fingerprint(self) -> Fingerprint:
    """Fingerprint of the files' names, sizes, slices and checksums."""
    paths = [os.fspath(shard.filename) for shard in self._shards]
    slices = [(s.examples_in_shard, s.skip, s.take) for s in self._shards]
    lines = [
      f"{os.path.basename(path)} {os.path.getsize(path)} {slice_}\n".encode()
      for path, slice_ in zip(paths, slices, strict=True)
    ]
    found = {"shards": digest(lines)}
    folder = os.path.dirname(paths[0])
    try:
      known = sums.read(folder)
    except ValueError as error:
      raise ConfigError(f"{self._where}: {error}. {self._again}") from error
    if known:
      of_shards = (known.get(os.path.basename(p), "").encode() for p in paths)
      found["checksums"] = digest(of_shards)
    return found

  def __len__(self) -> int:
    return len(self._records)

  def read(
    self, indices: Sequence[int]
  ) -> tuple[list[bytes | np.ndarray], np.ndarray]:
    """See `sets.Images`."""
    # One record per call, so that the next record reuses its memory. One call
    # for all records takes three times as long, mostly to map new pages.
    chunks = [indices[i : i + _AHEAD] for i in range(0, len(indices), _AHEAD)]
    read = lambda rows: [self._read(int(i)) for i in rows]
    # In parallel, because a network file system has a high latency per record.
    found = (_pool().map if len(chunks) > 1 else map)(read, chunks)
    images, labels = zip(*itertools.chain(*found), strict=True)
    return list(images), np.array(labels, np.int32)

  def _read(self, index: int) -> tuple[bytes | np.ndarray, int]:
    """Reads and parses a record; b"" and -1 if it is damaged."""
    try:
      return self._parse(self._records[index])
    except RuntimeError:
      return b"", -1

  def _parse(self, record: bytes) -> tuple[bytes | np.ndarray, int]:
    """The image and its label, -1 if the images have no labels."""
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(record).features.feature
    if self._parser is None:
      image = feature["image"].bytes_list.value[0]
    else:
      image = self._tensor(record, feature)
    if self.num_classes is None:
      return image, -1
    return image, feature["label"].int64_list.value[0]

  def _tensor(self, record: bytes, feature: Any) -> np.ndarray:
    """The pixels of an image that is not encoded, uint8[h, w, c]."""
    # As `sslx.prepare` stores them, which TFDS's own parser takes long for.
    shape = tuple(feature["image/shape"].int64_list.value)
    values = feature["image/value"].bytes_list.value
    if values and len(values[0]) == math.prod(shape):
      return np.frombuffer(values[0], np.uint8).reshape(shape)
    return self._parser.deserialize_example_np(record)["image"]

  def name(self, index: int) -> str:
    """See `sets.Images`."""
    return f"record {index} of {self._where}"

  def file_name(self, index: int) -> str:
    """The image's `file_name` in the set, or its index if it has none."""
    from tensorflow_datasets.proto import tf_example_pb2

    record = tf_example_pb2.Example.FromString(self._records[index])
    found = record.features.feature["file_name"].bytes_list.value
    return found[0].decode(errors="backslashreplace") if found else str(index)

  def to_memory(self, shape: tuple[int, int, int]) -> Arrays:
    """Decodes all images into one array, in threads.

    Raises:
      ConfigError: the images do not fit into memory, or one is damaged.
    """
    shape = (len(self), *shape[:2], 3)
    self._check_memory(shape)
    images = np.empty(shape, np.uint8)
    labels = np.full(len(images), -1, np.int32)

    def read(rows):
      # One call for all: these records are small, and a call for each would
      # take twice as long.
      found = self._records.__getitems__(list(rows))
      for row, record in zip(rows, found, strict=True):
        data, labels[row] = self._parse(record)
        image = crops.decode(data)
        if image.shape != shape[1:]:
          raise ValueError(f"record {row} is not an image of {shape[1:3]}")
        images[row] = image

    rows = range(len(images))
    chunks = [rows[i : i + _CHUNK] for i in rows[::_CHUNK]]
    try:
      with futures.ThreadPoolExecutor() as pool:
        list(pool.map(read, chunks))  # `list` raises the errors of the threads.
    except (RuntimeError, ValueError) as error:
      raise ConfigError(
        f"{self._where} is damaged: {error}. {self._again}"
      ) from error
    if self.num_classes is None or labels.min() < 0:  # -1 is "no label".
      return Arrays(images, None, None)
    return Arrays(images, labels, self.num_classes)

  def _check_memory(self, shape: tuple[int, ...]) -> None:
    need = math.prod(shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > memory:
      raise ConfigError(
        f"{self._where}: uint8{list(shape)} takes {need / 1e9:.0f} GB of memory"
        f" and this machine has {memory / 1e9:.0f} GB. Take a slice, such as"
        " 'train[:10%]', or a smaller set."
      )


@functools.cache
def _pool() -> futures.ThreadPoolExecutor:
  return futures.ThreadPoolExecutor(4, thread_name_prefix="read")


def _let_open(where: str, count: int) -> None:
  """Lets this process and its children open `count` more files.

  ArrayRecord's reader keeps every file open. If it cannot open a file, the
  images in it look damaged. The limit of a shell is often 1,024.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft == resource.RLIM_INFINITY:
    return
  most = float("inf") if hard == resource.RLIM_INFINITY else hard
  need = count + _OTHER_FILES
  if need > most:
    raise ConfigError(
      f"{where} has {count:,} files, which are open all at once, and this"
      f" process may open {hard:,}. Raise the limit to {need:,} (as root:"
      f" `ulimit -n {need}`), or prepare the set in fewer files."
    )
  # Other sets may need what is allowed now, so this adds to it.
  raised = min(max(soft + count, need), most)
  resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))


def _check_shards(where: str, again: str, shards: list[Any]) -> None:
  paths = [os.fspath(shard.filename) for shard in shards]
  lengths = [shard.examples_in_shard for shard in shards]
  # In parallel: thousands of files take long on a network file system.
  for path, problem in zip(
    paths, _pool().map(problem_of, paths, lengths), strict=True
  ):
    if problem is not None:
      raise ConfigError(f"{where}: {path} {problem}. {again}")


def problem_of(path: str, length: int) -> str | None:
  """The problem with a file that should hold `length` records, or None.

  This detects truncated files. Damage inside a file is detected when the
  damaged record is read.
  """
  from array_record.python import array_record_module

  try:
    reader = array_record_module.ArrayRecordReader(path)
    found = reader.num_records()
    reader.close()  # Raises the error of opening the file.
  except RuntimeError as error:
    return f"is missing, cut short or unreadable: {error}"
  if found != length:
    return f"holds {found} records where dataset_info.json says {length}"
  return None
