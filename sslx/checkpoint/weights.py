"""Another run's checkpoint, to load parts of."""

from __future__ import annotations

from typing import Any

from orbax.checkpoint import v1 as ocp

from sslx import storage
from sslx.checkpoint import reading
from sslx.checkpoint.reading import CheckpointError, reason


class Weights:
  """One checkpoint of another run, to load parts of; a context manager.

  Attributes:
    step: the step of the checkpoint.
    shapes: shape of every array of its state, by path: `params/backbone/...`.
  """

  def __init__(
    self,
    workdir: str,
    step: int | None = None,
    key: str = "config.runtime.init_from",
  ):
    """Opens the checkpoint; reads no arrays yet.

    Args:
      workdir: the other run's workdir; a local path or a URL.
      step: step of the checkpoint; the newest by default.
      key: flag or config key that names the workdir, for messages.

    Raises:
      CheckpointError: there is no such checkpoint, or it cannot be read.
      StorageError: the path is in a store that cannot be read here.
    """
    path = storage.path(workdir, key) / "checkpoints"
    said = f"{key} is {str(workdir)!r}"
    if not path.is_dir():
      raise CheckpointError(
        f"{said}: there is no folder {str(path)!r}. Give the workdir of"
        " another run."
      )
    try:
      self._orbax = ocp.training.Checkpointer(path)
    except Exception as error:  # A damaged file can cause any error.
      raise CheckpointError(
        f"{said}: {path} cannot be opened: {reason(error)}"
      ) from error
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
        self.shapes = reading.shapes(metadata["state"])
      except Exception as error:
        raise CheckpointError(
          f"{said}: its checkpoint of step {self.step} cannot be read:"
          f" {reason(error)}"
        ) from error
    except BaseException:
      self._orbax.close()
      raise

  def __enter__(self) -> Weights:
    """Returns itself."""
    return self

  def __exit__(self, *_: Any) -> None:
    """Releases the directory."""
    self._orbax.close()

  def load(self, wanted: dict[str, Any]) -> dict[str, Any]:
    """Loads a part of the state.

    Args:
      wanted: ShapeDtypeStructs with shardings; any subtree of the state.

    Raises:
      CheckpointError: the part is absent, has other shapes, or cannot be read.
    """
    return reading.load(self._orbax, self.step, {"state": wanted})["state"]
