"""Checkpoints: the only file that imports Orbax.

A checkpoint is `{state, data}`: the whole TrainState and the state of the data
iterator, committed together or not at all. Saves run in the background; Orbax
renames a finished one into place, so a kill at any moment leaves the last good
one as it was.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

from sslx.config import require
from sslx.state import TrainState

# Orbax logs at length what it does, and the whole stack of every failure that
# is raised as well; a run's own lines would drown in it.
logging.getLogger("absl").addFilter(
  lambda record: "orbax" not in record.pathname
)


class CheckpointError(RuntimeError):
  """A save or a restore that failed; the message says what is still good."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """When to save and what to keep; config section `runtime.checkpoint`.

  Attributes:
    every_epochs: between saves; may be a fraction. The end is always saved.
    keep_last: how many of the newest stay.
    keep_every_epochs: of these, every one stays; None keeps the newest only.
  """

  every_epochs: float = 10.0
  keep_last: int = 2
  keep_every_epochs: int | None = None

  def __post_init__(self):
    require(self, "every_epochs", self.every_epochs > 0, "positive")
    require(self, "keep_last", self.keep_last >= 1, "at least 1")


class Checkpoints:
  """The checkpoints of one run, in `directory`."""

  def __init__(
    self,
    directory: str | pathlib.Path,
    settings: Checkpoint,
    steps_per_epoch: int,
    metadata: dict[str, Any] | None = None,
  ):
    """Opens the directory; nothing is read or written yet.

    Args:
      directory: of one run.
      settings: when to save and what to keep.
      steps_per_epoch: optimiser steps.
      metadata: JSON to keep beside every checkpoint, such as the config's hash.
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
    self._orbax = ocp.training.Checkpointer(
      epath.Path(directory).resolve(),  # Orbax refuses relative paths.
      save_decision_policy=save.AnySavePolicy(
        [save.FixedIntervalPolicy(self.every)]
      ),
      preservation_policy=keep.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
    )
    self._metadata = metadata
    self._saving: tuple[int, Any] | None = None
    self._failure_raised = False

  @property
  def directory(self) -> str:
    """Where they are."""
    return str(self._orbax.directory)

  def latest(self) -> int | None:
    """Step of the newest committed checkpoint, asked of the directory."""
    self._orbax.reload()
    return self._orbax.latest.step if self._orbax.latest else None

  def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
    """Starts a save; returns when `state` may be donated.

    Raises:
      CheckpointError: this or an earlier save failed.
    """
    self.wait()
    try:
      response = self._orbax.save_checkpointables_async(
        step,
        {"state": state, "data": data},
        force=True,
        custom_metadata=self._metadata,
      )
    except Exception as error:
      raise self._failed(step, error) from error
    self._saving = (step, response)

  def wait(self) -> None:
    """Returns when the save under way, if any, is committed.

    Raises:
      CheckpointError: it failed.
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
    good = self.latest()
    last = (
      f"The last good checkpoint is step {good}"
      if good is not None
      else "There is no earlier checkpoint"
    )
    return CheckpointError(
      f"the checkpoint of step {step} could not be saved: {_reason(error)}\n"
      f"{last} in {self.directory}. Remove the cause (is the disk full?) and"
      " start the same command again to go on from there."
    )

  def restore(
    self, abstract_state: TrainState
  ) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest checkpoint, laid out as `abstract_state` says.

    Args:
      abstract_state: ShapeDtypeStructs with shardings; any number of devices.

    Returns:
      State and iterator state, or None if there is no checkpoint.

    Raises:
      CheckpointError: it cannot be read, or is not of this model.
    """
    step = self.latest()
    if step is None:
      return None
    loaded = _load(self._orbax, step, {"state": abstract_state, "data": None})
    return loaded["state"], loaded["data"]

  def close(self) -> None:
    """Waits for the save under way and releases the directory."""
    try:
      self.wait()
    finally:
      try:
        self._orbax.close()
      except Exception:
        # Orbax raises the error of a failed save at every later call; once, as
        # a CheckpointError, is enough.
        if not self._failure_raised:
          raise


class Weights:
  """One checkpoint of another run, to take parts of; a context manager.

  Attributes:
    step: of the checkpoint.
    shapes: of every array of its state, by path: `params/backbone/...`.
  """

  def __init__(
    self,
    workdir: str,
    step: int | None = None,
    key: str = "config.runtime.init_from",
  ):
    """Opens it; no array is read yet.

    Args:
      workdir: the other run's.
      step: which checkpoint; the newest by default.
      key: how the user gave the workdir, for messages.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    path = epath.Path(workdir).resolve() / "checkpoints"
    said = f"{key} is {str(workdir)!r}"
    if not path.is_dir():
      raise CheckpointError(
        f"{said}: there is no folder {str(path)!r}. Give the workdir of"
        " another run."
      )
    self._orbax = ocp.training.Checkpointer(path)
    try:
      there = [found.step for found in self._orbax.checkpoints]
      if not there:
        raise CheckpointError(f"{said}: no checkpoint has been committed yet.")
      self.step = there[-1] if step is None else step
      if self.step not in there:
        raise CheckpointError(
          f"{said}: there is no checkpoint of step {step}; there are those of"
          f" {', '.join(map(str, there))}."
        )
      try:
        metadata = self._orbax.checkpointables_metadata(self.step).metadata
        self.shapes = _shapes(metadata["state"])
      except Exception as error:
        raise CheckpointError(
          f"{said}: its checkpoint of step {self.step} cannot be read:"
          f" {_reason(error)}"
        ) from error
    except BaseException:
      self._orbax.close()
      raise

  def __enter__(self) -> Weights:
    """Itself."""
    return self

  def __exit__(self, *_: Any) -> None:
    """Releases the directory."""
    self._orbax.close()

  def load(self, wanted: dict[str, Any]) -> dict[str, Any]:
    """Loads a part of the state.

    Args:
      wanted: ShapeDtypeStructs with shardings; any subtree of the state.

    Raises:
      CheckpointError: it is not there, of other shapes, or cannot be read.
    """
    return _load(self._orbax, self.step, {"state": wanted})["state"]


def _load(
  orbax: ocp.training.Checkpointer, step: int, wanted: dict[str, Any]
) -> dict[str, Any]:
  """Loads what is wanted; `wanted["state"]` may be a part of the state."""
  where = f"the checkpoint of step {step} in {orbax.directory}"
  advice = (
    f"Remove {orbax.directory / str(step)} to go on from the checkpoint"
    " before it, or start anew with --overwrite or another --workdir."
  )
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  try:
    found = _shapes(orbax.checkpointables_metadata(step).metadata["state"])
    if not found:
      raise ValueError("it holds no arrays")
  except Exception as error:
    raise CheckpointError(
      f"{where} cannot be read: {_reason(error)}\n{advice}"
    ) from error
  _check_same(_shapes(wanted["state"]), found, where)
  try:
    with context:
      return orbax.load_checkpointables(step, wanted)
  except Exception as error:
    raise CheckpointError(
      f"{where} cannot be read: {_reason(error)}\n{advice}"
    ) from error


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """`a/b/c` to shape, for every array."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    if hasattr(leaf, "shape")
  }


def _check_same(
  wanted: dict[str, tuple[int, ...]],
  found: dict[str, tuple[int, ...]],
  where: str,
) -> None:
  wrong = [
    f"  {key}: {found.get(key, 'absent')} there, {shape} in this config"
    for key, shape in wanted.items()
    if found.get(key) != shape
  ]
  if wrong:
    more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    raise CheckpointError(
      f"{where} is of another model; {len(wrong)} of {len(wanted)} arrays"
      " do not fit:\n" + "\n".join(wrong[:5]) + more
    )


def _reason(error: BaseException) -> str:
  text = str(error).strip().splitlines()
  return f"{type(error).__name__}: {text[0] if text else ''}"[:400]
