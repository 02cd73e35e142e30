"""Runs a job to its end on slices that may be preempted.

  absent -> create        waiting -> wait        failed -> delete, create
  ready  -> set up, run:  exit 0 or a user error -> done
                          preempted, lost, hung  -> again

It deletes only what it made. It does so however it ends, because an idle slice
costs as much as one that trains.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence

from sslx.launch import commands, slices
from sslx.launch.slices import Slice, Step

# Messages of gcloud after which a later attempt may succeed. Quota errors are
# excluded: a quota does not grow by itself.
_LATER = re.compile(
  r"RESOURCE_EXHAUSTED|STOCKOUT|RESOURCE_POOL_EXHAUSTED|UNAVAILABLE|INTERNAL|"
  r"DEADLINE_EXCEEDED|no more capacity|insufficient capacity|"
  r"does not have enough resources|internal error|try again|currently deleting",
  re.IGNORECASE,
)
_NEVER = re.compile(r"quota|PERMISSION_DENIED|INVALID_ARGUMENT", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Policy:
  """When to try again, and when to give up.

  Attributes:
    attempts: failures in a row before giving up.
    healthy: seconds. After a longer run, the count of failures starts again.
    wait: seconds before the first new attempt; doubled after each failure in a
      row.
    max_wait: maximum seconds between attempts.
    poll: seconds between checks of a slice that is being made.
    patience: hours to wait for a slice.
    keep: do not delete the slice at the end.
  """

  attempts: int = 8
  healthy: float = 1800.0
  wait: float = 30.0
  max_wait: float = 900.0
  poll: float = 60.0
  patience: float = 72.0
  keep: bool = False

  def seconds(self, failures: int) -> float:
    """Seconds to wait after this number of failures in a row."""
    return min(self.wait * 2 ** (failures - 1), self.max_wait)


def retry(
  where: Slice, args: Sequence[str], policy: Policy, before: str = ""
) -> int:
  """Runs a job to its end; returns its exit code.

  If it gives up, it returns 175: the same command may be given again.
  """
  made: list[Step] = []
  try:
    return _loop(where, args, policy, before, made)
  except _GivenUp:
    return commands.RESTART
  finally:
    if made and policy.keep:
      commands.say(f"{where.name!r} is kept, and costs: delete it when done")
    elif slices.delete(made):
      commands.say(f"{where.name!r} could not be deleted, and costs: see above")


class _GivenUp(Exception):
  """Too many failures in a row, or no slice in time."""


def _loop(
  where: Slice,
  args: Sequence[str],
  policy: Policy,
  before: str,
  made: list[Step],
) -> int:
  # Failures in a row: all of them, and those of runs on the current slice.
  failures = short = 0
  waiting_since = time.monotonic()
  is_set_up = False
  # A dry run shows the creation of the slice, which is then ready at once.
  states = iter([slices.ABSENT] if commands.dry_run() else ())

  def failed(what: str) -> None:
    """Counts a failure and waits before the next attempt.

    Raises:
      _GivenUp: there were too many failures in a row.
    """
    nonlocal failures
    failures += 1
    commands.say(f"{what} (failure {failures} of {policy.attempts} in a row)")
    if failures >= policy.attempts:
      raise _GivenUp
    time.sleep(policy.seconds(failures))

  def attempt() -> int | None:
    """Does the next step of the job; returns the exit code once it is done."""
    nonlocal failures, short, waiting_since, is_set_up
    found = slices.state(where)
    state = next(states, found.state)
    if state == slices.ABSENT:
      is_set_up, short, waiting_since = False, 0, time.monotonic()
      steps, result = slices.create(where)
      made.extend(step for step in steps if step not in made)
      if result.code and not _worth_waiting(result.output):
        commands.say("that is not for want of capacity: mend it")
        return result.code
      if result.code:
        failed("no capacity")
    elif state == slices.WAITING:
      if time.monotonic() - waiting_since > 3600 * policy.patience:
        commands.say(f"no slice after {policy.patience:g} hours")
        raise _GivenUp
      commands.say(f"waiting for the slice: {found.detail}")
      time.sleep(policy.poll)
    elif state == slices.FAILED:
      if not made:
        commands.say(
          f"{where.name!r} is {found.detail or state}, and was not made by this"
          " command: delete it, or give another --name"
        )
        return 1
      failed(f"the slice is lost: {found.detail}")
      slices.delete(made)  # If this fails, the next attempt deletes again.
    else:
      began = time.monotonic()
      code = 0 if is_set_up else slices.setup(where)
      is_set_up = code == 0
      code = code or slices.run(where, args, before)
      if code == 0:
        return 0
      if time.monotonic() - began > policy.healthy:
        failures = short = 0
      is_there = slices.state(where).state == slices.READY
      # When hosts vanish, ssh fails with many codes. The exit code is the job's
      # only if the hosts are still there.
      if is_there and not commands.restarts(code):
        return code
      short += 1
      failed(f"the run ended with exit code {code}")
      if is_there and made and short >= 2:
        commands.say("twice on the same hosts: one may be bad, so others")
        slices.delete(made)
    return None

  while True:
    try:
      code = attempt()
    except commands.Failure as error:
      failed(str(error))
      continue
    if code is not None:
      return code


def _worth_waiting(output: str) -> bool:
  return bool(_LATER.search(output) and not _NEVER.search(output))
