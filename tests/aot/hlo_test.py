"""Shapes and structure of HLO text."""

import pathlib
import re

import pytest

from sslx.aot import hlo

RECORDED = pathlib.Path(__file__).parent / "recorded"


@pytest.mark.parametrize(
  ("shape", "size", "in_hbm"),
  [
    ("f32[3,5]{1,0}", 3 * 5 * 4, True),
    ("bf16[16,128]{1,0:T(8,128)(2,1)}", 16 * 128 * 2, True),
    ("f32[9,100]{1,0:T(8,128)}", 16 * 128 * 4, True),
    # The minor dimension is the first of the layout, not the last of the shape.
    ("f32[100,9]{0,1:T(8,128)}", 128 * 16 * 4, True),
    ("f32[2,9,100]{2,1,0:T(8,128)S(1)}", 2 * 16 * 128 * 4, False),
    ("f32[768]{0:T(1024)}", 1024 * 4, True),
    ("pred[]", 1, True),
  ],
)
def test_bytes_of_an_array_with_the_padding_of_its_tiles(shape, size, in_hbm):
  (array,) = hlo.arrays(shape)
  assert (array.size, array.in_hbm) == (size, in_hbm)


def test_arrays_of_a_tuple():
  shape = "((f32[8,128]{1,0:T(8,128)}), bf16[2]{0}, /*index=2*/token[], u32[])"
  assert [x.dtype for x in hlo.arrays(shape)] == ["f32", "bf16", "u32"]


@pytest.mark.parametrize(
  ("name", "size"),
  [  # As `memory_analysis` said when they were compiled.
    ("data", 5242880),
    ("fsdp", 1310720),
    ("queue", 33686016),
    ("loop", 335544320),
  ],
)
def test_parameters_take_what_xla_says_of_arguments(name, size):
  module = hlo.parse((RECORDED / f"{name}.txt").read_text())
  entry = module.computations[module.entry].values()
  found = sum(x.results[0].size for x in entry if x.op == "parameter")
  assert found == pytest.approx(size, abs=1024)


def test_every_line_of_a_computation_is_read():
  text = (RECORDED / "loop.txt").read_text()
  lines = [x for x in text.splitlines() if re.match(r"  (ROOT )?%", x)]
  module = hlo.parse(text)
  assert sum(map(len, module.computations.values())) == len(lines)


def test_the_body_of_a_loop_runs_as_often_as_its_condition_counts():
  module = hlo.parse((RECORDED / "loop.txt").read_text())
  times = {x.name: n for x, _, n in module.run()}
  assert times["while.10"] == 1
  assert times["convolution_sine_fusion.2"] == 5


def test_other_text_is_refused():
  with pytest.raises(ValueError, match="no ENTRY"):
    hlo.parse("HloModule jit_f\n")
