"""Writes the ArrayRecord shards of a set, in parallel, each by one worker.

A shard gets its name only once it is whole and its summary is on disk. What it
holds depends on the job alone, not on which worker wrote it, nor when.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import NamedTuple, Protocol

import numpy as np

from sslx.config import ConfigError
from sslx.data import crops, sums
from sslx.data.encode import Form, encode

_READ = 16  # images that are read, and counted, at a time
_MAX_SKIPPED = 0.01  # of the images; more is not a few damaged files


class Images(Protocol):
  """Encoded images on disk, as `sources.Encoded`, and what they are called."""

  num_classes: int | None

  def __len__(self) -> int:
    """Number of images."""

  def read(self, indices: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """Encoded images, b"" for unreadable ones, and labels, int32[n]."""

  def name(self, index: int) -> str:
    """Where an image is, for messages."""

  def file_name(self, index: int) -> str:
    """What the set calls it."""


class Job(NamedTuple):
  """What all shards have in common.

  Attributes:
    splits: the images, by the name of the split.
    labelled: whether records have a label, -1 where an image has none.
    form: what is stored of an image.
  """

  splits: Mapping[str, Images]
  labelled: bool
  form: Form


class Shard(NamedTuple):
  """One file, and which images of a split are for it, int64[n]."""

  path: str
  split: str
  indices: np.ndarray

  @property
  def summary(self) -> str:
    """Path of the file that says what is in the shard."""
    folder, name = os.path.split(self.path)
    return os.path.join(folder, "progress", f"{name}.json")


class Summary(NamedTuple):
  """What was written, its checksum, and a line on each image that was not."""

  images: int
  num_bytes: int
  skipped: list[str]
  sha256: str


def write(
  job: Job,
  shards: Sequence[Shard],
  workers: int,
  progress: Callable[[int], None],
) -> list[Summary]:
  """Writes the shards that are not there yet.

  Args:
    job: what they have in common.
    shards: all of the set's, in one folder.
    workers: processes.
    progress: called now and then with the number of images done.

  Returns:
    The summary of each.

  Raises:
    ConfigError: a shard cannot be written, or too many images are damaged.
  """
  summaries, todo = {}, []
  for shard in shards:
    summary = _finished(shard)
    if summary is None:
      todo.append(shard)
    else:
      summaries[shard.path] = summary
  total = sum(len(shard.indices) for shard in shards)
  earlier = total - sum(len(shard.indices) for shard in todo)
  # Spawned: a fork would share the locks of threads that it does not have.
  context = multiprocessing.get_context("spawn")
  done, stop = context.Value("q", 0), context.Value("b", 0)
  arguments, workers = (job, done, stop), min(workers, len(todo))
  if workers > 1:
    pool = process.ProcessPoolExecutor(workers, context, _start, arguments)
  else:
    pool = futures.ThreadPoolExecutor(1, "shards", _start, arguments)
  try:
    # Workers inherit that Ctrl-C, which a terminal sends to all processes, is
    # not for them. They start at the first `submit`.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
      waiting = {pool.submit(_write, shard): shard for shard in todo}
    finally:
      signal.signal(signal.SIGINT, handler)
    while waiting:
      finished, _ = futures.wait(waiting, 0.2, futures.FIRST_COMPLETED)
      for future in finished:
        summaries[waiting.pop(future).path] = future.result()
      _check_skipped(summaries.values(), total, shards[0].path)
      progress(earlier + done.value)
  except process.BrokenProcessPool as error:
    raise ConfigError(
      "A worker process was ended, perhaps for lack of memory. What is finished"
      " is kept: run the same command again, with fewer --workers."
    ) from error
  finally:
    stop.value = 1
    pool.shutdown(cancel_futures=True)
  _check_skipped(summaries.values(), total, shards[0].path)
  return [summaries[shard.path] for shard in shards]


def _finished(shard: Shard) -> Summary | None:
  """What an earlier run wrote, if it wrote all of it."""
  if not os.path.exists(shard.path):
    return None
  try:
    with open(shard.summary) as file:
      return Summary(*json.load(file))
  except (OSError, ValueError, TypeError):
    # A power failure lost it, or an older version wrote it.
    return None


def _check_skipped(summaries: Sequence[Summary], total: int, path: str) -> None:
  skipped = sorted(line for summary in summaries for line in summary.skipped)
  if len(skipped) > _MAX_SKIPPED * total:
    raise ConfigError(
      f"{len(skipped)} of {total} images are damaged or unreadable, which is"
      f" more than {_MAX_SKIPPED:.0%}: {'; '.join(skipped[:5])}. Mend or remove"
      f" them, then start anew: rm -r {shlex.quote(os.path.dirname(path))}"
    )


_worker = None  # job, done and stop of this process


def _start(job: Job, done, stop) -> None:
  """Makes this process, or this thread, a worker."""
  global _worker
  _worker = job, done, stop
  if multiprocessing.parent_process() is not None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)  # It was killed, or else it would have ended this process.


def _write(shard: Shard) -> Summary:
  """Writes a shard, under another name until it is whole."""
  from array_record.python import array_record_module

  job, done, stop = _worker
  images = job.splits[shard.split]
  partial = f"{shard.path}.{os.getpid()}.partial"
  count, num_bytes, skipped = 0, 0, []
  # The writer of ArrayRecord raises RuntimeError, whatever went wrong.
  with writing(shard.path, OSError, RuntimeError):
    # JPEGs do not compress, and to read pixels from a compressed file takes
    # longer than to decode a JPEG.
    options = "group_size:1,uncompressed"
    writer = array_record_module.ArrayRecordWriter(partial, options)
    for start in range(0, len(shard.indices), _READ):
      if stop.value:
        raise futures.CancelledError
      indices = shard.indices[start : start + _READ]
      encoded, labels = images.read(indices)
      for index, data, label in zip(indices, encoded, labels, strict=True):
        try:
          stored = encode(data, job.form)
        except crops.BadImage as error:
          skipped.append(f"{images.name(index)}: {error}")
          continue
        label = int(label) if job.labelled else None
        record = _record(*stored, label, images.file_name(index))
        writer.write(record)
        count, num_bytes = count + 1, num_bytes + len(record)
      with done.get_lock():
        done.value += len(indices)
    writer.close()
    summary = Summary(count, num_bytes, skipped, sums.of_file(partial))
    with open(f"{shard.summary}.partial", "w") as file:
      json.dump(summary, file)
    os.replace(file.name, shard.summary)
    with open(partial, "rb") as file:
      os.fsync(file.fileno())
    os.replace(partial, shard.path)
  return summary


@contextlib.contextmanager
def writing(path: str, *kinds: type[Exception]) -> Iterator[None]:
  """Says what to do when the disk is full, or not to be written to."""
  try:
    yield
  except kinds as error:
    first = str(error).splitlines()[0]
    raise ConfigError(
      f"{path} cannot be written: {first[:300]}. See to it that there is space"
      " and that this user may write there. What is finished is kept: run the"
      " same command again to go on."
    ) from error


def _record(
  image: bytes,
  shape: tuple[int, int, int] | None,
  label: int | None,
  file_name: str,
) -> bytes:
  """As TFDS serialises it."""
  from tensorflow_datasets.proto import tf_example_pb2

  example = tf_example_pb2.Example()
  feature = example.features.feature
  if shape is None:
    feature["image"].bytes_list.value.append(image)
  else:
    feature["image/shape"].int64_list.value.extend(shape)
    feature["image/value"].bytes_list.value.append(image)
  if label is not None:
    feature["label"].int64_list.value.append(label)
  feature["file_name"].bytes_list.value.append(file_name.encode())
  # Maps have no order of their own, and the files should be the same each time.
  return example.SerializeToString(deterministic=True)
