"""Reads checkpoints, or parts of them, and checks what was read."""

from __future__ import annotations

import logging
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from sslx.checkpoint import checksum
from sslx.errors import RunError

# Orbax logs every action, and the whole stack of every failure, which it raises
# as well. These lines would hide the run's own.
logging.getLogger("absl").addFilter(
  lambda record: "orbax" not in record.pathname
)


ADVICE = (
  "Go on from the one before with --config.runtime.checkpoint.fall_back=True,"
  " or start anew with --overwrite or another --workdir."
)


class CheckpointError(RunError):
  """A failed save or restore of a checkpoint."""


class UnreadableError(CheckpointError):
  """A damaged checkpoint; an earlier one may be intact."""


def load(
  orbax: ocp.training.Checkpointer, step: int, wanted: dict[str, Any]
) -> dict[str, Any]:
  """Loads items of a checkpoint; `wanted["state"]` may be a part of the state.

  Raises:
    UnreadableError: the checkpoint cannot be read, or its bytes have changed.
    CheckpointError: the checkpoint is of another model.
  """
  where = f"the checkpoint of step {step} in {orbax.directory}"
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  try:
    saved = orbax.checkpointables_metadata(step)
    found = shapes(saved.metadata["state"])
    checksums = (saved.custom_metadata or {}).get("checksums", {})
    if not found:
      raise ValueError("it holds no arrays")
  except Exception as error:  # A damaged file can cause any error.
    raise UnreadableError(
      f"{where} cannot be read: {reason(error)}\n{ADVICE}"
    ) from error
  _check_same(shapes(wanted["state"]), found, where)
  try:
    with context:
      loaded = orbax.load_checkpointables(step, wanted)
  except Exception as error:
    raise UnreadableError(
      f"{where} cannot be read: {reason(error)}\n{ADVICE}"
    ) from error
  if checksums:  # Older versions of sslx wrote none.
    sums = checksum.of(loaded["state"])
    changed = [key for key, x in sums.items() if checksums.get(key) != x]
    if changed:
      raise UnreadableError(
        f"{where} has changed since it was written: the checksums of"
        f" {len(changed)} of {len(sums)} arrays differ, such as {changed[0]}."
        f"\n{ADVICE}"
      )
  return loaded


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every array, by path: `a/b/c`."""
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


def reason(error: BaseException) -> str:
  text = str(error).strip().splitlines()
  return f"{type(error).__name__}: {text[0] if text else ''}"[:400]
