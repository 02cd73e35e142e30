"""Writes the ArrayRecord shards of a set in parallel, one worker per shard.

A shard gets its final name only when it is complete and its summary is on disk.
Its contents depend only on the job, not on the worker or the time.
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
from typing import NamedTuple

import numpy as np

from sslx.config import ConfigError
from sslx.data import crops, sums
from sslx.data.encode import Form, encode
from sslx.data.sets import Images

_READ = 16  # images that are read, and counted, at a time
_MAX_SKIPPED = 0.01  # maximum fraction of images that may be skipped


class Job(NamedTuple):
  """What all shards have in common.

  Attributes:
    splits: the images, by the name of the split.
    labelled: whether records have a label; -1 is an image without one.
    form: how images are stored.
  """

  splits: Mapping[str, Images]
  labelled: bool
  form: Form


class Shard(NamedTuple):
  """One file and the images of a split that it holds; indices are int64[n]."""

  path: str
  split: str
  indices: np.ndarray

  @property
  def summary(self) -> str:
    """Path of the JSON file with the shard's `Summary`."""
    folder, name = os.path.split(self.path)
    return os.path.join(folder, "progress", f"{name}.json")


class Summary(NamedTuple):
  """Contents and checksum of a shard, and one line per skipped image."""

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
  """Writes the shards that do not exist yet.

  Args:
    job: what the shards have in common.
    shards: all shards of the set, in one folder.
    workers: number of processes.
    progress: called repeatedly with the number of images done.

  Returns:
    The summary of each shard.

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
  # Not forked: a fork copies locks held by threads that it does not have.
  context = multiprocessing.get_context("spawn")
  done, stop = context.Value("q", 0), context.Value("b", 0)
  arguments, workers = (job, done, stop), min(workers, len(todo))
  if workers > 1:
    pool = process.ProcessPoolExecutor(workers, context, _start, arguments)
  else:
    pool = futures.ThreadPoolExecutor(1, "shards", _start, arguments)
  try:
    # A terminal sends Ctrl-C to all processes. Workers start at the first
    # `submit` and inherit the setting to ignore it.
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
  """The summary of a shard that an earlier run completed, or None."""
  if not os.path.exists(shard.path):
    return None
  try:
    with open(shard.summary) as file:
      return Summary(*json.load(file))
  except (OSError, ValueError, TypeError):
    # Lost in a power failure, or written by an older version.
    return None


def _check_skipped(summaries: Sequence[Summary], total: int, path: str) -> None:
  skipped = sorted(line for summary in summaries for line in summary.skipped)
  if len(skipped) > _MAX_SKIPPED * total:
    raise ConfigError(
      f"{len(skipped)} of {total} images are damaged or unreadable, which is"
      f" more than {_MAX_SKIPPED:.0%}: {'; '.join(skipped[:5])}. Repair or"
      " remove them, then start anew:"
      f" rm -r {shlex.quote(os.path.dirname(path))}"
    )


_worker = None  # (job, done, stop) of this process


def _start(job: Job, done, stop) -> None:
  """Initialises this process or thread as a worker."""
  global _worker
  _worker = job, done, stop
  if multiprocessing.parent_process() is not None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)  # The parent was killed; otherwise it would end its workers.


def _write(shard: Shard) -> Summary:
  """Writes a shard, under a temporary name until it is complete."""
  from array_record.python import array_record_module

  job, done, stop = _worker
  images = job.splits[shard.split]
  partial = f"{shard.path}.{os.getpid()}.partial"
  count, num_bytes, skipped = 0, 0, []
  # ArrayRecord's writer raises RuntimeError for every kind of failure.
  with writing(shard.path, OSError, RuntimeError):
    # Uncompressed, because JPEGs do not compress, and reading pixels from a
    # compressed file takes longer than decoding a JPEG.
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
  """Turns errors of writing, such as a full disk, into a ConfigError."""
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
  """Serialises a record as TFDS does."""
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
  # Maps have no fixed order, but the files should be reproducible.
  return example.SerializeToString(deterministic=True)
