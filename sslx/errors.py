"""Errors that a user can mend, and the exit codes of `sslx.main`."""

from __future__ import annotations

# The run could not go on, but the same command will: the launcher restarts it.
# Between 127 and 255, where JobSet and xpk restart a job, and above every
# 128 + signal.
RESTART = 175


class RunError(RuntimeError):
  """A run that cannot start or go on; shown as one line, without a traceback.

  Attributes:
    exit_code: 1, since the same command would fail again.
  """

  exit_code = 1


class StorageError(RunError):
  """A file or folder that cannot be read or written."""


class WorkdirError(RunError):
  """A workdir that is in use, foreign or damaged."""


class RestartError(RunError):
  """A run that stopped moving or lost a process; a restart goes on."""

  exit_code = RESTART
