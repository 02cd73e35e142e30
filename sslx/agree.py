"""Checks that all processes of a job agree, before they train."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import metrics, parallel
from sslx import workdir as workdir_lib
from sslx.data import crops, fingerprint
from sslx.data.fingerprint import Fingerprint
from sslx.experiment import Experiment
from sslx.job import Job
from sslx.lock import owner

# Keys that may differ between the processes of a job.
_OF_A_HOST = r"data\.(data_dir|threads|workers)"
# Seconds within which all processes must reach the same point.
_TOGETHER = 600.0
# Seconds within which other hosts must see a new file; NFS caches folders.
_SEEN = 30.0


def check_processes(job: Job, config: ConfigDict) -> None:
  """Checks that all processes were started in the same way.

  Raises:
    ConfigError: their configs, devices or versions differ.
  """
  if job.peers is None:
    return

  def differs(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    changed = config_lib.differences(ours, theirs)
    return ", ".join(
      f"{key} is {there!r} there and {here!r} in process 0"
      for key, (here, there) in changed.items()
      if not re.fullmatch(rf"config\.{_OF_A_HOST}", key)
    )

  started = {
    "config": json.loads(config_lib.to_json(config)),
    "jax": jax.__version__,
    "JPEG decoder": crops.decoder(),
    "process count": jax.process_count(),
    "devices of the process": jax.local_device_count(),
    "kind of device": jax.local_devices()[0].device_kind,
  }
  job.peers.check_same("start", started, differs, _TOGETHER)


def claim(
  job: Job,
  workdir: epath.Path,
  config: ConfigDict,
  overwrite: bool,
  note: Callable[[str], None],
) -> None:
  """Claims the workdir in the main process; the others check they see it.

  Raises:
    ConfigError, RunError: see `workdir.claim`.
    ConfigError: another process does not see the same folder.
  """
  if parallel.is_main_process():
    job.lock = workdir_lib.claim(workdir, config, overwrite, note)
  if job.peers is None:
    return
  token = job.lock.token if job.lock else None
  token = job.peers.broadcast("workdir", token, _TOGETHER)
  end = time.monotonic() + _SEEN
  while not (sees := _token(workdir) == token) and time.monotonic() < end:
    time.sleep(0.5)

  unseen = (
    f"it does not see the workdir {workdir} of process 0. Give a folder that"
    " all hosts share, or one in a store such as gs://."
  )
  differs = lambda ours, theirs: "" if theirs else unseen
  job.peers.check_same("sees the workdir", sees, differs, _TOGETHER)


def on_data(job: Job, experiment: Experiment) -> dict[str, Fingerprint]:
  """Returns fingerprints of both sets, as "training set" and "test set".

  Raises:
    ConfigError: another process has other images.
  """
  sets = {"training set": experiment.train, "test set": experiment.test}
  found = {
    name: fingerprint.of(images)
    for name, images in sets.items()
    if images is not None
  }
  if job.peers:
    differs = lambda ours, theirs: "; ".join(
      fingerprint.differences(ours, theirs)
    )
    job.peers.check_same("data", found, differs, _TOGETHER)
  return found


def _token(workdir: epath.Path) -> str | None:
  """Returns the token of the run that holds a workdir."""
  return (owner(workdir / workdir_lib.LOCK) or {}).get("token")


def is_evaluated(
  job: Job, workdir: epath.Path, step: int, note: Callable[[str], None]
) -> bool:
  """Returns whether `metrics.jsonl` has the evaluation of a step."""
  found = False
  if parallel.is_main_process():
    found = any(
      row["step"] == step and any(key.startswith("eval/") for key in row)
      for row in metrics.read(workdir, note)
    )
  if job.peers:
    found = job.peers.broadcast("evaluated", found, _TOGETHER)
  return found
