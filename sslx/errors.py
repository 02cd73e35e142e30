"""Errors shown without a traceback, and the exit codes of `sslx.main`."""

from __future__ import annotations

# Exit code of a run that the same command can resume: the launcher restarts it.
# JobSet and xpk restart a job on codes between 127 and 255. This code is larger
# than 128 + signal for every signal.
RESTART = 175


class RunError(RuntimeError):
  """A run that cannot start or continue; shown without a traceback.

  Attributes:
    exit_code: 1, since the same command would fail again.
  """

  exit_code = 1


class StorageError(RunError):
  """A file or folder that cannot be read or written."""


class WorkdirError(RunError):
  """A workdir that is in use, not a run's, or damaged."""


class RestartError(RunError):
  """A run that stalled or lost a process; a restart resumes it."""

  exit_code = RESTART
