"""The folder of a run: claiming it, and deleting the run in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from sslx import boards, past, settings, storage
from sslx import config as config_lib
from sslx.config import ConfigError
from sslx.errors import WorkdirError
from sslx.lock import Lock, owner

# Keys that may change on resume: they set where and how a run executes, not
# what it computes.
MAY_CHANGE = (
  r"data\.(data_dir|prepare|threads|workers|max_bad)|schedule\.accumulate|"
  r"runtime\.(?!seed$|evaluate\.probe).*"
)
LOCK = "run.lock"

# What a run writes to its workdir: files, and folders with patterns of their
# entries. Pictures that older versions wrote to a folder of another name stay.
_FILES = (
  "config.json",
  "card.json",
  "CARD.md",
  "metrics.jsonl",
  "metrics.damaged.jsonl",
  boards.IDS,
)
_FOLDERS = {
  "checkpoints": r"\d+|.*\.orbax-checkpoint-tmp.*",
  "damaged": r"\d+",
  "evaluations": r"[\w.-]+",
  "pictures": r".*-\d+\.png(\.new)?",
  "profile": r"plugins",
  "tensorboard": r"events\.out\.tfevents\..*",
}


def claim(
  workdir: epath.Path,
  config: ConfigDict,
  overwrite: bool,
  note: Callable[[str], None],
) -> Lock:
  """Claims a workdir for this run: a new one, an emptied one, or one to resume.

  Args:
    workdir: the folder; created if absent.
    config: config of the run; written to `config.json`.
    overwrite: whether to delete the run in the workdir.
    note: called with messages about anything unusual.

  Returns:
    The lock, which is held.

  Raises:
    ConfigError: the workdir holds a run with another config.
    WorkdirError: the workdir is in use, is not a run's, or is damaged.
    StorageError: the workdir cannot be read or written.
  """
  storage.make_folder(workdir)
  _refuse_links(workdir)
  saved = workdir / "config.json"
  # The lock file of an earlier run marks the folder as a run's.
  marked = owner(workdir / LOCK) is not None
  lock = Lock(workdir / LOCK, note)
  try:
    if overwrite:
      _throw_away(workdir, marked)
    with storage.accessing(saved, "read"):
      found = saved.exists()
    if found:
      _check_same(workdir, read_config(saved), config, note)
    elif (workdir / "checkpoints").exists():
      raise WorkdirError(
        f"{workdir} has checkpoints but no config.json, so it is not known"
        " which run they are of. Give another --workdir."
      )
    storage.write(saved, config_lib.to_json(config))
  except BaseException:
    lock.release(forget=not marked)
    raise
  return lock


def read_config(path: epath.Path) -> dict[str, Any]:
  """Reads the config of a run, as plain values.

  Raises:
    WorkdirError: the file is damaged, or not the config of a run.
    StorageError: the file cannot be read.
  """
  with storage.accessing(path, "read"):
    data = path.read_bytes()
  try:
    found = json.loads(data)
  except (ValueError, RecursionError) as error:  # Not JSON, or not UTF-8.
    raise WorkdirError(
      f"{path} is damaged: {error}. Restore it, or give another --workdir; if"
      " the run in this one is not needed, start anew with --overwrite."
    ) from error
  if not _is_config(found):
    keys = ", ".join(map(str, found)) if isinstance(found, dict) else "no keys"
    raise WorkdirError(
      f"{path} is not the config of a run ({keys[:200]}). Give another"
      " --workdir."
    )
  return past.config(found)


def _is_config(value: Any) -> bool:
  """Returns whether a JSON value has the four sections and nothing else."""
  return (
    isinstance(value, dict)
    and sorted(value) == sorted(settings.SECTIONS)
    and all(isinstance(section, dict) for section in value.values())
  )


def _check_same(
  workdir: epath.Path,
  there: dict[str, Any],
  config: ConfigDict,
  note: Callable[[str], None],
) -> None:
  # A config of an older version of sslx, or one made in Python, may lack keys.
  there = settings.fill(there)
  now = settings.fill(json.loads(config_lib.to_json(config)))
  changed = config_lib.differences(there, now)
  lines = [
    f"  config.{key}: {old!r} there, {new!r} now"
    for key, (old, new) in changed.items()
  ]
  if any(not re.fullmatch(MAY_CHANGE, key) for key in changed):
    raise ConfigError(
      f"{workdir} holds a run with another config:\n"
      + "\n".join(lines)
      + "\nGive another --workdir, or throw this one away by --overwrite."
    )
  if lines:
    note("going on with a changed config:\n" + "\n".join(lines))


def _refuse_links(workdir: epath.Path) -> None:
  """Rejects symbolic links in place of a run's files and folders."""
  if storage.is_remote(workdir):
    return
  names = (*_FILES, *_FOLDERS, LOCK)
  links = [name for name in names if os.path.islink(workdir / name)]
  if links:
    raise WorkdirError(
      f"{workdir} has symbolic links named {', '.join(links)}. A run neither"
      " reads nor writes through them. Move what they point to here, or give"
      " another --workdir."
    )


def _throw_away(workdir: epath.Path, marked: bool) -> None:
  """Deletes a run's files and folders; other names in the workdir stay.

  Raises:
    WorkdirError: something in these files and folders may not be a run's;
      nothing was deleted.
    StorageError: something cannot be deleted.
  """
  with storage.accessing(workdir, "read"):
    entries = {x.name: x for x in workdir.iterdir() if x.name != LOCK}
    here = [x for x in (*_FILES, *_FOLDERS) if x in entries]
    foreign = []
    for name in here:
      if name in _FILES:
        foreign += [name] if entries[name].is_dir() else []
      elif not entries[name].is_dir():
        foreign.append(name)
      else:
        foreign += [
          f"{name}/{entry.name}"
          for entry in entries[name].iterdir()
          if not re.fullmatch(_FOLDERS[name], entry.name)
        ]
  if here and not marked:
    try:
      read_config(workdir / "config.json")
    except (WorkdirError, storage.StorageError):
      what = "a config.json of something else"
      foreign.append(what if "config.json" in here else "no config.json")
  if foreign:
    raise WorkdirError(
      f"--overwrite deletes only what a run wrote. {workdir} holds something"
      f" else: {', '.join(sorted(foreign)[:10])}. Nothing was deleted. All that"
      f" is there: {', '.join(sorted(entries)[:20])}. Move it, or give another"
      " --workdir."
    )
  for name in here:
    with storage.accessing(entries[name], "deleted"):
      if name in _FOLDERS:
        entries[name].rmtree()
      else:
        entries[name].unlink()
