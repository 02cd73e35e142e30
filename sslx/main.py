"""Trains: `python -m sslx.main --config=configs/simclr.py --workdir=...`.

See `command` for the exit codes.
"""

from __future__ import annotations

from absl import flags

from sslx import command, settings, train

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "Config file, with an argument after a colon if it takes one. Single keys"
  " are set by --config.a.b=value.",
  required=True,
)
_OVERWRITE = flags.DEFINE_boolean(
  "overwrite", False, "Throw away the run in the workdir and start anew."
)


def main(overrides: list[tuple[str, str]]) -> None:
  """Trains as the flags say.

  Args:
    overrides: (dotted key, text of the value) pairs, in the order given.
  """
  with command.job() as job:
    config = settings.load(_CONFIG.value, overrides)
    workdir, overwrite = command.WORKDIR.value, _OVERWRITE.value
    train.run(config, workdir, overwrite=overwrite, job=job)


if __name__ == "__main__":
  command.run(main)
