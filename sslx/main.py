"""Trains: `python -m sslx.main --config=configs/simclr.py --workdir=...`."""

from __future__ import annotations

import sys

import jax
from absl import app, flags, logging

from sslx import checkpoint, metrics, train
from sslx import config as config_lib

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "Config file, with an argument after a colon if it takes one. Single keys"
  " are set by --config.a.b=value.",
  required=True,
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the run: checkpoints, metrics, config. A run goes on by itself"
  " from the newest checkpoint in it.",
  required=True,
)
_OVERWRITE = flags.DEFINE_boolean(
  "overwrite", False, "Throw away the run in the workdir and start anew."
)
_DISTRIBUTED = flags.DEFINE_boolean(
  "distributed",
  False,
  "Join the other processes of the job. TPU pods, SLURM and GKE are"
  " detected; elsewhere give the next three flags.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "host:port of process 0."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "In the job.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this one, from 0.")


def main(overrides: list[tuple[str, str]]) -> None:
  """Runs what the flags say.

  Args:
    overrides: (dotted key, text of the value), in the order given.
  """
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # Libraries tell of each file.
  if _DISTRIBUTED.value:
    jax.distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  try:
    config = config_lib.load(_CONFIG.value, overrides)
    train.run(config, _WORKDIR.value, overwrite=_OVERWRITE.value)
  except (
    config_lib.ConfigError,
    checkpoint.CheckpointError,
    metrics.NotFiniteError,
  ) as error:
    # The user's to mend, so the message is all that is shown.
    sys.exit(f"\nerror: {error}")


def parse_flags(argv: list[str]) -> list[tuple[str, str]]:
  """Parses all flags; returns the `--config.a.b=value` ones, which are ours."""
  try:
    overrides, rest = config_lib.split_overrides(argv)
  except config_lib.ConfigError as error:
    sys.exit(f"error: {error}")
  positional = app.parse_flags_with_usage(rest)[1:]
  if positional:
    sys.exit(f"error: unexpected arguments {positional}; flags start with --.")
  return overrides


if __name__ == "__main__":
  jax.config.config_with_absl()
  app.run(main, flags_parser=parse_flags)
