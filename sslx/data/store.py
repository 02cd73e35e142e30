"""Writes a set of images as TFDS does: ArrayRecord shards and their metadata.

A set is written to `<version>.incomplete` next to its final folder, and renamed
when it is complete and has been checked. `progress/plan.json` in that folder
records the request, so that an interrupted run can be resumed and shards of
different requests are never mixed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sslx.config import ConfigError
from sslx.data import check, shards, sums
from sslx.data.encode import Form

_SHARD = 1000  # images per shard; more if there would be too many shards
_MAX_SHARDS = 500  # Readers keep all files open; a shell often allows 1024.


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """A set to be written.

  Attributes:
    folder: folder of the finished set, `.../name/version`.
    splits: the images, by the name of the split.
    classes: names of the classes, or None if the images have no labels.
    form: how images are stored.
    source: where the images come from.
    part: the list that chose the training images; empty if all are there.
  """

  folder: str
  splits: dict[str, shards.Images]
  classes: tuple[str, ...] | None
  form: Form
  source: str
  part: str = ""


def write(
  request: Request, workers: int, progress: Callable[[int], None]
) -> dict[str, tuple[int, int]]:
  """Writes a set, or resumes an interrupted run.

  Args:
    request: the set to be written.
    workers: number of processes.
    progress: called repeatedly with the number of images done.

  Returns:
    For each split, the number of images and the number of skipped images. The
    skipped images are listed in the set's `skipped.txt`.

  Raises:
    ConfigError: the set exists; an unfinished set of another request exists;
      another process is writing the set; the disk is full; too many images are
      damaged; or the written set fails its check.
  """
  folder = f"{request.folder}.incomplete"
  names = {split: _names(images) for split, images in request.splits.items()}
  with (
    shards.writing(folder, OSError),
    _claim(request.folder, folder, _plan(request, names)),
  ):
    plan = list(_shards(request, folder, names))
    job = shards.Job(request.splits, request.classes is not None, request.form)
    written = shards.write(job, plan, workers, progress)
    splits = {split: [] for split in request.splits}
    for shard, summary in zip(plan, written, strict=True):
      splits[shard.split].append(summary)
    skipped = sorted(line for summary in written for line in summary.skipped)
    if skipped:
      with open(os.path.join(folder, "skipped.txt"), "w") as file:
        file.writelines(f"{line}\n" for line in skipped)
    _write_metadata(request, folder, splits)
    checked = check.check(folder, compare=False, sample=True)
    if checked.problems:
      raise ConfigError(check.message(folder, checked.problems))
    known = {
      os.path.basename(shard.path): summary.sha256
      for shard, summary in zip(plan, written, strict=True)
    }
    sums.write(folder, known)
    os.rename(folder, request.folder)
  shutil.rmtree(os.path.join(request.folder, "progress"))
  return {
    split: (sum(s.images for s in found), sum(len(s.skipped) for s in found))
    for split, found in splits.items()
  }


def _names(images: shards.Images) -> list[bytes]:
  return [images.file_name(i).encode() for i in range(len(images))]


def _plan(request: Request, names: dict[str, list[bytes]]) -> dict[str, Any]:
  """Everything that the contents of the shards depend on."""
  plan = {"source": request.source, **dataclasses.asdict(request.form)}
  for split, all_ in names.items():
    digest = hashlib.blake2b(b"\0".join(all_), digest_size=8).hexdigest()
    plan[f"images of {split}"] = len(all_)
    plan[f"their names in {split}"] = digest
  return plan


def _shards(
  request: Request, folder: str, names: dict[str, list[bytes]]
) -> Iterator[shards.Shard]:
  """Assigns images to shards in the order of a hash of their names.

  Therefore any slice is a random sample, and the same on every machine.
  """
  name = os.path.basename(os.path.dirname(request.folder))
  for split, all_ in names.items():
    digests = [hashlib.blake2b(x, digest_size=8).digest() for x in all_]
    order = np.frombuffer(b"".join(digests), ">u8").argsort(kind="stable")
    count = min(_MAX_SHARDS, -(-len(order) // _SHARD))
    for i, indices in enumerate(np.array_split(order, count)):
      file = f"{name}-{split}.array_record-{i:05}-of-{count:05}"
      yield shards.Shard(os.path.join(folder, file), split, indices)


@contextlib.contextmanager
def _claim(target: str, folder: str, plan: dict[str, Any]) -> Iterator[None]:
  """Reserves an unfinished set for one plan, and locks it for this process."""
  if os.path.exists(target):
    raise ConfigError(
      f"{target} exists. Check it with --verify, or prepare the set anew after"
      f" rm -r {shlex.quote(target)}"
    )
  path = os.path.join(folder, "progress", "plan.json")
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "a+") as file:
    try:
      # Released when the process ends.
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise ConfigError(
        f"{folder} is being written by another process. Wait for its end."
      ) from error
    file.seek(0)
    text = file.read()
    if text.endswith("}"):
      _check_plan(folder, json.loads(text), plan)
    else:  # New, or killed before the first shard.
      file.truncate(0)
      json.dump(plan, file, indent=2)
      file.flush()
      os.fsync(file.fileno())  # Before any shard is written.
    for name in os.listdir(folder):
      if name.endswith(".partial"):
        os.unlink(os.path.join(folder, name))
    yield


def _check_plan(
  folder: str, found: dict[str, Any], plan: dict[str, Any]
) -> None:
  differs = [
    f"{key} was {found.get(key)!r} and is {plan.get(key)!r}"
    for key in [*plan, *(found.keys() - plan.keys())]
    if found.get(key) != plan.get(key)
  ]
  if differs:
    raise ConfigError(
      f"{folder} was left by an unfinished preparation of something else:"
      f" {'; '.join(differs)}. Ask for the same as then to go on, or start"
      f" anew: rm -r {shlex.quote(folder)}"
    )


def _write_metadata(
  request: Request, folder: str, splits: dict[str, list[shards.Summary]]
) -> None:
  """Writes dataset_info.json, features.json and label.labels.txt."""
  import tensorflow_datasets as tfds

  if request.form.raw:
    image = tfds.features.Tensor(
      shape=(None, None, 3), dtype=np.uint8, encoding="bytes"
    )
  else:
    # None allows any encoding.
    encoding = "jpeg" if request.form.only_jpeg else None
    image = tfds.features.Image(encoding_format=encoding)
  features = {"image": image, "file_name": tfds.features.Text()}
  if request.classes is not None:
    features["label"] = tfds.features.ClassLabel(names=list(request.classes))
  description = f"Prepared by sslx from {request.source}."
  if request.part:
    description += f" Its training images are those of {request.part}."
  name = os.path.basename(os.path.dirname(request.folder))
  infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[summary.images for summary in summaries],
      num_bytes=sum(summary.num_bytes for summary in summaries),
      filename_template=tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=name,
        split=split,
        filetype_suffix="array_record",
      ),
    )
    for split, summaries in splits.items()
  ]
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=tfds.features.FeaturesDict(features),
    split_infos=infos,
    version=os.path.basename(request.folder),
    description=description,
    check_data=False,  # This would need TensorFlow; `check` does it instead.
  )
