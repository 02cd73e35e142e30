"""The checkpoints of a run: saves in the background, keeps and restores."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from sslx import storage
from sslx.checkpoint import checksum, damage
from sslx.checkpoint.reading import (
  ADVICE,
  CheckpointError,
  UnreadableError,
  load,
  reason,
)
from sslx.config import require
from sslx.state import TrainState


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """When to save and what to keep; config section `runtime.checkpoint`.

  Attributes:
    every_epochs: epochs between saves; may be a fraction. The end is always
      saved.
    keep_last: number of the newest checkpoints to keep.
    keep_every_epochs: interval in epochs at which checkpoints are kept for
      good; None keeps only the newest.
    fall_back: whether to resume from an earlier checkpoint if the newest cannot
      be read. The damaged one is moved to the folder `damaged` of the workdir.
    changed_data: whether to resume although the images are not those that the
      run has used so far.
  """

  every_epochs: float = 10.0
  keep_last: int = 2
  keep_every_epochs: int | None = None
  fall_back: bool = False
  changed_data: bool = False

  def __post_init__(self):
    require(self, "every_epochs", self.every_epochs > 0, "positive")
    require(self, "keep_last", self.keep_last >= 1, "at least 1")


class Checkpoints:
  """The checkpoints of one run, in `directory`."""

  def __init__(
    self,
    directory: str | os.PathLike,
    settings: Checkpoint,
    steps_per_epoch: int,
    metadata: dict[str, Any] | None = None,
  ):
    """Opens the directory; reads no arrays and writes nothing yet.

    Args:
      directory: the folder of one run's checkpoints.
      settings: when to save and what to keep.
      steps_per_epoch: optimiser steps per epoch.
      metadata: JSON to store with every checkpoint, such as the config's hash.
    """
    save, keep = (
      ocp.training.save_decision_policies,
      ocp.training.preservation_policies,
    )
    self.every = max(1, round(settings.every_epochs * steps_per_epoch))
    kept = [keep.LatestN(settings.keep_last)]
    if settings.keep_every_epochs:
      kept.append(
        keep.EveryNSteps(settings.keep_every_epochs * steps_per_epoch)
      )
    self._metadata = metadata or {}
    self._fall_back = settings.fall_back
    self._orbax = self._open(
      storage.path(directory, "directory"),
      save_decision_policy=save.AnySavePolicy(
        [save.FixedIntervalPolicy(self.every)]
      ),
      preservation_policy=keep.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
    )
    self._saving: tuple[int, Any] | None = None
    self._failure_raised = False

  def _open(
    self, directory: epath.Path, **settings: Any
  ) -> ocp.training.Checkpointer:
    """Opens Orbax's checkpointer, which reads all checkpoints' metadata."""
    try:
      return ocp.training.Checkpointer(directory, **settings)
    except Exception as error:  # A damaged file can cause any error.
      steps = damage.unreadable_steps(directory)
      message = (
        f"{directory} cannot be opened: {reason(error)}\nThe metadata of"
        f" {'steps ' + ', '.join(steps) if steps else 'no step'} are damaged."
        f" {ADVICE}"
      )
      if not steps or not self._fall_back:
        raise UnreadableError(message) from error
    for step in steps:
      damage.move_away(directory, step)
    return ocp.training.Checkpointer(directory, **settings)

  @property
  def directory(self) -> str:
    """The folder of the checkpoints."""
    return str(self._orbax.directory)

  def latest(self) -> int | None:
    """Reads the step of the newest committed checkpoint from the directory."""
    self._orbax.reload()
    return self._orbax.latest.step if self._orbax.latest else None

  def good(self) -> str:
    """Describes the checkpoint that a run would resume from."""
    try:
      step = self.latest() if self._orbax.directory.exists() else None
    except Exception as error:  # Any error of the file system or the store.
      return f"not known, since {self.directory} cannot be read ({error})"
    return (
      f"none in {self.directory}"
      if step is None
      else (f"step {step} in {self.directory}")
    )

  def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
    """Starts a save; returns as soon as `state` may be donated.

    Raises:
      CheckpointError: this or an earlier save failed.
    """
    self.wait()
    try:
      response = self._orbax.save_checkpointables_async(
        step,
        {"state": state, "data": data},
        force=True,
        custom_metadata=self._metadata | {"checksums": checksum.of(state)},
      )
    except Exception as error:
      raise self._failed(step, error) from error
    self._saving = (step, response)

  def wait(self) -> None:
    """Waits until the save in progress, if any, is committed.

    Raises:
      CheckpointError: the save failed.
    """
    if self._saving is None:
      return
    (step, response), self._saving = self._saving, None
    try:
      response.result()
    except Exception as error:
      raise self._failed(step, error) from error

  def _failed(self, step: int, error: Exception) -> CheckpointError:
    self._failure_raised = True
    return CheckpointError(
      f"the checkpoint of step {step} could not be saved: {reason(error)}\n"
      f"The last good checkpoint: {self.good()}. Remove the cause (is the disk"
      " full?) and start the same command again to go on from there."
    )

  def restore(
    self, abstract_state: TrainState, note: Callable[[str], None] = print
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """Restores the newest checkpoint, sharded like `abstract_state`.

    Args:
      abstract_state: ShapeDtypeStructs with shardings, on any number of
        devices.
      note: called with a message about a checkpoint that cannot be read, if the
        settings allow to fall back to the one before.

    Returns:
      State and iterator state, or None if there is no checkpoint.

    Raises:
      CheckpointError: the checkpoint cannot be read, its bytes have changed, or
        it is of another model.
    """
    wanted = {"state": abstract_state, "data": None}
    while (step := self.latest()) is not None:
      try:
        loaded = load(self._orbax, step, wanted)
      except UnreadableError as error:
        if not self._fall_back or len(self._orbax.checkpoints) < 2:
          raise
        note(f"{error}\nruntime.checkpoint.fall_back: taking the one before.")
        damage.move_away(self._orbax.directory, str(step))
      else:
        return loaded["state"], loaded["data"]
    return None

  def metadata(self, step: int) -> dict[str, Any]:
    """Returns the metadata that were stored with a checkpoint."""
    return self._orbax.checkpointables_metadata(step).custom_metadata or {}

  def close(self) -> None:
    """Waits for the save in progress and releases the directory."""
    try:
      self.wait()
    finally:
      try:
        self._orbax.close()
      except Exception:
        # Orbax raises the error of a failed save again at every later call. It
        # was already raised as a CheckpointError.
        if not self._failure_raised:
          raise
