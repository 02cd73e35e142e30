"""Damaged checkpoints: finds them and moves them out of the way."""

from __future__ import annotations

import json

from etils import epath

from sslx import parallel, storage

# The keys in each checkpoint's `_CHECKPOINT_METADATA`, which Orbax writes.
_KEYS = {
  "commit_timestamp_nsecs",
  "custom_metadata",
  "init_timestamp_nsecs",
  "item_handlers",
  "metrics",
  "performance_metrics",
}


def unreadable_steps(directory: epath.Path) -> list[str]:
  """Returns the steps whose metadata Orbax cannot read, newest first."""
  folders = [x for x in directory.iterdir() if x.name.isdigit()]
  damaged = []
  for folder in sorted(folders, key=lambda x: -int(x.name)):
    try:
      found = json.loads((folder / "_CHECKPOINT_METADATA").read_bytes())
      known = found.keys() == _KEYS
      good = known and all(
        isinstance(found[key], int)
        for key in ("init_timestamp_nsecs", "commit_timestamp_nsecs")
      )
    except (ValueError, OSError, AttributeError, RecursionError):
      good = False
    if not good:
      damaged.append(folder.name)
  return damaged


def move_away(directory: epath.Path, step: str) -> None:
  """Moves a checkpoint to the folder `damaged` of the workdir."""
  folder = directory.parent / "damaged"
  parallel.barrier("found damaged")  # First, all processes must have read it.
  if parallel.is_main_process():
    storage.make_folder(folder)
    with storage.accessing(folder):
      if (folder / step).exists():
        (folder / step).rmtree()
      (directory / step).rename(folder / step)
  parallel.barrier("moved away")
