"""Checks a prepared set: that all files are whole, and a sample of images."""

from __future__ import annotations

import os
import shlex
from typing import Any

import numpy as np

from sslx.config import ConfigError
from sslx.data import crops, records

_SAMPLE = 256  # images of a split, and at least two of every file


def problems(folder: str) -> list[str]:
  """All that is wrong with a set of ArrayRecord files.

  Args:
    folder: of the set, with its dataset_info.json.

  Raises:
    ConfigError: its metadata cannot be read.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder_from_directory(folder)
    formats = [f.value for f in builder.info.available_file_formats()]
  except Exception as error:  # TFDS raises many kinds.
    raise ConfigError(
      f"{folder}: its dataset_info.json or features.json is missing or damaged:"
      f" {str(error).splitlines()[0]}. {remedy(folder)}"
    ) from error
  if "array_record" not in formats:
    raise ConfigError(
      f"{folder} is prepared as {', '.join(formats)}; sslx reads array_record."
      f" {remedy(folder)}"
    )
  features = builder.info.features
  label = features["label"] if "label" in features else None
  num_classes = getattr(label, "num_classes", None)
  found = []
  for split in builder.info.splits.values():
    shards = split.file_instructions
    if not shards:
      found.append(f"split {split.name!r} has no records")
    for shard in shards:
      path, length = os.fspath(shard.filename), shard.examples_in_shard
      problem = records.problem_of(path, length)
      if problem is None:
        sample = max(2, -(-_SAMPLE // len(shards)))
        rows = np.unique(np.linspace(0, length - 1, sample).astype(int))
        problem = _problem_inside(path, rows.tolist(), num_classes)
      if problem is not None:
        found.append(f"{path} {problem}")
  return found


def remedy(folder: str) -> str:
  """What to do about a damaged set."""
  return f"Delete it and prepare it again: rm -r {shlex.quote(folder)}"


def message(folder: str, found: list[str]) -> str:
  """The problems of a set, as an error."""
  more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
  return f"{folder} is damaged: {'; '.join(found[:5])}{more}. {remedy(folder)}"


def _problem_inside(
  path: str, rows: list[int], num_classes: int | None
) -> str | None:
  """What is wrong with some records of a file."""
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
    except Exception as error:  # A record can be anything.
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
    if not -1 <= label < num_classes:  # -1 is "not given".
      raise ValueError(f"label {label} is not one of {num_classes} classes")
