"""Every method has a case; the command tells what differs and what passes."""

import numpy as np
import pytest

from tests import compare_official, official
from tests.official import Difference


@pytest.mark.parametrize("method", official.METHODS)
def test_a_method_has_a_case_with_known_mistakes(method):
  case = official.case(method)
  assert case.source and case.steps > 1 and case.mistakes


class Told(official.Case):
  """A case whose differences are given, by mistake."""

  def __init__(self, sizes):
    mistakes = {name: "a suite" for name in sizes if name}
    super().__init__("told", "a paper", dict, 2, None, mistakes)
    object.__setattr__(self, "sizes", sizes)

  def take(self):
    return None

  def differences(self, taken, mistake=""):
    queue = {"queue": Difference(0.0, ""), "pointer": Difference(2e-6, "")}
    return {"loss": Difference(self.sizes[mistake], "")} | queue


@pytest.mark.parametrize(
  ("sizes", "code", "told"),
  [
    ({"": 1e-6, "sign": 0.5}, 0, ["equal", "caught"]),
    ({"": 1e-2, "sign": 0.5}, 1, ["NOT EQUAL", "caught"]),
    ({"": np.nan, "sign": np.nan}, 1, ["NOT EQUAL", "NOT CAUGHT"]),
    ({"": 1e-6, "sign": 1e-5}, 1, ["equal", "NOT CAUGHT"]),
  ],
)
def test_the_table_and_the_exit_code_say_what_was_found(sizes, code, told):
  lines = []
  assert compare_official.compare([Told(sizes)], lines.append) == code
  head, _, method, variant, last = lines
  assert method.split()[:3] == ["told", "2", f"{sizes['']:.0e}"]
  assert method.endswith("a paper") and variant.endswith("sign (a suite)")
  at = head.index("result")
  assert [x[at:].split("  ")[0] for x in (method, variant)] == told
  assert "2e-06" in method  # The larger of the buffers.
  equal, caught = told[0] == "equal", told[1] == "caught"
  assert f"{int(equal)} of 1 methods" in last
  assert f"{int(caught)} of 1 known wrong variants" in last


def test_another_name_is_refused():
  lines = []
  assert compare_official.main(["mocov9"], lines.append) == 1
  assert lines[0].startswith("no method mocov9; there are simclr, mocov2,")
