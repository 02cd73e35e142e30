"""Checks that a run can resume from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sslx.checkpoint import CheckpointError
from sslx.config import ConfigError
from sslx.data import fingerprint
from sslx.data.fingerprint import Fingerprint
from sslx.data.pipeline import iterator_state
from sslx.experiment import Experiment


def check_order(data_state: Any, step: int, where: str) -> None:
  """Checks that the checkpoint's run had the same order of images.

  Each step takes one batch, in an order drawn from the seed. So the order can
  only differ if another version of sslx draws it in another way.

  Args:
    data_state: state of the iterator in the checkpoint.
    step: step of the checkpoint.
    where: description of the checkpoint.

  Raises:
    CheckpointError: the order differs.
  """
  wanted = iterator_state(step)
  if data_state != wanted:
    raise CheckpointError(
      f"{where} is of a run with another order of the images, in which this"
      f" version cannot go on: its data are at {data_state}, and not {wanted}."
      " Go on with the version of sslx that wrote it, or start a run from its"
      " weights: another --workdir, and this one in"
      " --config.runtime.init_from."
    )


def check_data(
  experiment: Experiment,
  metadata: dict[str, Any],
  data: dict[str, Fingerprint],
  step: int,
  note: Callable[[str], None],
) -> None:
  """Checks that the images are the same, unless the config allows a change.

  Args:
    experiment: the run that resumes.
    metadata: the checkpoint's metadata: `data`, fingerprints by set, and
      `decoder`.
    data: fingerprints of the present sets.
    step: step of the checkpoint.
    note: called with messages about differences that are allowed.

  Raises:
    ConfigError: the images differ.
  """
  decoder = metadata.get("decoder")
  if decoder not in (None, experiment.decoder):
    note(
      f"until step {step} the JPEG decoder was {decoder!r}, and here it is"
      f" {experiment.decoder!r}: pixels differ a little, and the result is not"
      " that of one run without interruption"
    )
  then = metadata.get("data")
  if then is None:
    note("the checkpoint does not say which images the run had so far")
    return
  changed = fingerprint.differences(then, data)
  if not changed:
    return
  told = (
    f"the images are not those that the run had until step {step}:\n  "
    + "\n  ".join(changed)
  )
  if not experiment.runtime.checkpoint.changed_data:
    raise ConfigError(
      f"{told}\nPut back what was there, or go on with the new ones:"
      " --config.runtime.checkpoint.changed_data=True"
    )
  note(told)
