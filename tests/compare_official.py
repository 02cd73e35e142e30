"""Prints the table of all methods beside their official algorithms.

    python -m tests.compare_official [method ...]

A row of a method has the largest relative difference of each quantity over its
updates, and a row below it those of a known wrong variant, if the comparison is
given that instead. The exit code is 1 if a method differs, or a variant does
not.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

# The devices of the tests, before anything imports JAX.
from tests import conftest, official  # noqa: F401

SHORT = {"teacher's statistics": "(its BN)", "statistics": "BN"}
COLUMNS = (
  "loss",
  "rate",
  "gradient",
  "parameters",
  "statistics",
  "teacher",
  "teacher's statistics",
  "buffers",  # The largest of them: each method has its own.
)


def main(names: Sequence[str], say: Callable[[str], None] = print) -> int:
  """Compares methods, by default all; returns the exit code."""
  unknown = sorted(set(names) - set(official.METHODS))
  if unknown:
    known = ", ".join(official.METHODS)
    say(f"no method {', '.join(unknown)}; there are {known}")
    return 1
  return compare([official.case(x) for x in names or official.METHODS], say)


def compare(
  cases: Sequence[official.Case], say: Callable[[str], None] = print
) -> int:
  """Prints the table of some cases; returns the exit code."""
  heads = [SHORT.get(x, x) for x in COLUMNS]
  say(_row("method", "steps", heads, "result", "source, known wrong variants"))
  say("-" * 150)
  equal = caught = variants = 0
  for case in cases:
    taken = case.take()
    found = case.differences(taken)
    equal += (fits := case.fits(found))
    result = "equal" if fits else "NOT EQUAL"
    say(_row(case.method, case.steps, _sizes(found), result, case.source))
    for mistake, known in case.mistakes.items():
      found = case.differences(taken, mistake)
      caught += (seen := case.catches(found))
      variants += 1
      result = "caught" if seen else "NOT CAUGHT"
      what = f"{mistake} ({known})" if known else mistake
      say(_row("", "", _sizes(found), result, what))
  say(
    f"{equal} of {len(cases)} methods equal their official algorithms;"
    f" {caught} of {variants} known wrong variants are caught."
  )
  return int(equal < len(cases) or caught < variants)


def _sizes(found: Mapping[str, official.Difference]) -> list[str]:
  """Differences in the order of COLUMNS; "" if there is no such quantity."""
  sizes = {name: x.size for name, x in found.items() if name in COLUMNS}
  buffers = [x.size for name, x in found.items() if name not in COLUMNS]
  if buffers:
    sizes["buffers"] = max(buffers)
  return [f"{sizes[x]:.0e}" if x in sizes else "" for x in COLUMNS]


def _row(
  method: str, steps: object, sizes: Sequence[str], result: str, text: str
) -> str:
  cells = "".join(f"{x:<11}" for x in sizes)
  return f"{method:<14}{steps!s:<7}{cells}{result:<12}{text}".rstrip()


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
