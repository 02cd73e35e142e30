"""Checks a prepared set: its files, their checksums, and its images."""

from __future__ import annotations

import os
import shlex
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from sslx.config import ConfigError
from sslx.data import crops, records, sums

_SAMPLE = 256  # images to decode per split, but at least two of every file
_CHUNK = 256  # records that a thread decodes at a time


class Checked(NamedTuple):
  """The result of a check.

  Attributes:
    problems: one line per problem.
    images: number of images in the set.
    decoded: number of images that were decoded.
    summed: number of files whose checksums were compared; None if the set has
      no checksums or none were to be compared.
  """

  problems: list[str]
  images: int
  decoded: int
  summed: int | None


def check(folder: str, *, compare: bool, sample: bool) -> Checked:
  """Checks a set of ArrayRecord files.

  Args:
    folder: the folder of the set, which holds dataset_info.json.
    compare: compare the checksums of all files, if the set has checksums. Only
      a sample of the images is decoded then.
    sample: decode only a sample even if no checksums were compared.

  Raises:
    ConfigError: the set's metadata cannot be read.
  """
  changed, summed = [], None
  if compare:
    try:
      expected = sums.read(folder)
    except ValueError as error:
      raise ConfigError(f"{error}. {remedy(folder)}") from error
    if expected is not None:
      changed, summed = sums.problems(folder, expected), len(expected)
  if changed:
    return Checked(changed, 0, 0, summed)
  builder = _open(folder)
  features = builder.info.features
  label = features["label"] if "label" in features else None
  num_classes = getattr(label, "num_classes", None)
  found, images, decoded = [], 0, 0
  if num_classes is not None and len(label.names) != num_classes:
    found.append(
      f"label.labels.txt names {len(label.names)} classes where features.json"
      f" has {num_classes}"
    )
  for split in builder.info.splits.values():
    shards = split.file_instructions
    if not shards:
      found.append(f"split {split.name!r} has no records")
    for shard in shards:
      path, length = os.fspath(shard.filename), shard.examples_in_shard
      images += length
      problem = records.problem_of(path, length)
      if problem is None:
        rows = np.arange(length)
        if sample or summed is not None:
          count = max(2, -(-_SAMPLE // len(shards)))
          rows = np.unique(np.linspace(0, length - 1, count).astype(int))
        problem = _problem_inside(path, rows, num_classes)
        decoded += len(rows)
      if problem is not None:
        found.append(f"{path} {problem}")
  return Checked(found, images, decoded, summed)


def _open(folder: str) -> Any:
  """The TFDS builder of the set."""
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
    formats = [f.value for f in builder.info.available_file_formats()]
  except Exception as error:  # TFDS raises many kinds of errors.
    raise ConfigError(
      f"{folder}: its dataset_info.json or features.json is missing or damaged:"
      f" {str(error).splitlines()[0]}. {remedy(folder)}"
    ) from error
  if "array_record" not in formats:
    raise ConfigError(
      f"{folder} is prepared as {', '.join(formats)}; sslx reads array_record."
      f" {remedy(folder)}"
    )
  return builder


def remedy(folder: str) -> str:
  """Advice on a damaged set, for messages."""
  return f"Delete it and prepare it again: rm -r {shlex.quote(folder)}"


def message(folder: str, found: list[str]) -> str:
  """The error message for the problems of a set."""
  more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
  return f"{folder} is damaged: {'; '.join(found[:5])}{more}. {remedy(folder)}"


def _problem_inside(
  path: str, rows: np.ndarray, num_classes: int | None
) -> str | None:
  """The first problem found in some records of a file, or None."""
  chunks = [rows[i : i + _CHUNK].tolist() for i in range(0, len(rows), _CHUNK)]
  check = lambda chunk: _problem_of_records(path, chunk, num_classes)
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return next(filter(None, pool.map(check, chunks)), None)


def _problem_of_records(
  path: str, rows: list[int], num_classes: int | None
) -> str | None:
  from array_record.python import array_record_module

  reader = array_record_module.ArrayRecordReader(path)
  try:
    found = reader.read(rows)
  except (RuntimeError, IndexError) as error:
    return f"is damaged inside: {str(error).splitlines()[0]}"
  finally:
    reader.close()
  for row, record in zip(rows, found, strict=True):
    try:
      _check_record(record, num_classes)
    except Exception as error:  # A damaged record can raise anything.
      return f"is damaged: record {row}: {str(error).splitlines()[0]}"
  return None


def _check_record(record: bytes, num_classes: int | None) -> Any:
  from tensorflow_datasets.proto import tf_example_pb2

  feature = tf_example_pb2.Example.FromString(record).features.feature
  if not feature.keys() & {"image", "image/value"}:
    raise ValueError("it has no image")
  if "image/shape" in feature:
    shape = tuple(feature["image/shape"].int64_list.value)
    pixels = feature["image/value"].bytes_list.value[0]
    np.frombuffer(pixels, np.uint8).reshape(shape)
  else:
    crops.decode(feature["image"].bytes_list.value[0])
  if num_classes is not None:
    label = feature["label"].int64_list.value[0]
    if not -1 <= label < num_classes:  # -1 is "no label".
      raise ValueError(f"label {label} is not one of {num_classes} classes")
