"""Writes the table of all recipes, each on the slice in its name."""

from __future__ import annotations

import fnmatch
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax

from sslx import config as config_lib
from sslx import settings
from sslx.aot.chips import CHIPS, FLAT, Slice
from sslx.aot.compile import DoesNotFit, build, compile_step
from sslx.aot.report import GIB, Report

PAGE = pathlib.Path(__file__).parent / "README.md"
RECIPES = pathlib.Path("configs/selfsup")
_BEGIN, _END = "<!-- by --table -->\n", "<!-- end -->\n"
_MOST = 256  # chips

# (recipe, images per chip), to compile for each number of chips in SCALES.
SCALING = (
  ("simclr_resnet50_8xb32-coslr-200e_in1k", 32),
  ("mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k", 128),
)
SCALES = (8, 32, 256)

_HEADER = (
  "| recipe | slice | images a chip | memory, GiB | FLOPs, T (of needed)"
  " | HBM, GB | exchanged, MB | gradients | ms: compute, memory, network"
  " | images/s |\n" + "|---" * 10 + "|\n"
)


class Row(NamedTuple):
  """What to compile: a recipe with overrides, and the number of chips."""

  name: str
  path: pathlib.Path
  chips: int
  overrides: list[tuple[str, str]]


def write(
  page: pathlib.Path, topology: str, pattern: str, cache: pathlib.Path | None
) -> None:
  """Compiles recipes and writes the tables between the marks of the page.

  The page is written after each row, so that hours of work are not lost.

  Args:
    page: the page to write; text outside the marks is kept.
    topology: kind of chips, and a shape that is ignored.
    pattern: pattern of the names of recipes.
    cache: see `compile_step`.

  Raises:
    ConfigError: slices of these chips have three axes, no recipe matches, or
      the page has no marks.
  """
  kind = topology.split(":")[0]
  if kind not in CHIPS or CHIPS[kind].axes != 2:
    raise config_lib.ConfigError(
      f"--topology={topology}: --table is for v5e and v6e, whose slices have"
      " one shape for a number of chips."
    )
  rows = list(_recipes(pattern))
  if not rows:
    raise config_lib.ConfigError(
      f"--recipes={pattern!r} matches nothing in {RECIPES}/."
    )
  text = page.read_text() if page.exists() else _BEGIN + _END
  if _BEGIN not in text or _END not in text:
    raise config_lib.ConfigError(f"{page} has no {_BEGIN.strip()} and {_END}")
  head, _, rest = text.partition(_BEGIN)
  _, _, tail = rest.partition(_END)
  body = ""

  def add(text: str) -> None:
    nonlocal body
    body += text
    page.write_text(head + _BEGIN + body + _END + tail)

  add(f"jax {jax.__version__}, {kind}\n\n{_HEADER}")
  for row in rows:
    for line in _until_it_fits(row, kind, cache):
      add(line)
  add(f"\nThe same images a chip:\n\n{_HEADER}")
  for row in _scaling(pattern):
    add(_line(row, kind, cache)[0])


def _recipes(pattern: str) -> Iterator[Row]:
  """Yields the recipes; those that differ only in their length are one row."""
  groups: dict[str, list[tuple[int, pathlib.Path]]] = {}
  for path in sorted(RECIPES.glob("*.py")):
    if fnmatch.fnmatch(path.stem, pattern):
      length = re.search(r"(?<=-)\d+(?=(e|it|img)_)", path.stem)
      plain = path.stem[: length.start()] + "*" + path.stem[length.end() :]
      groups.setdefault(plain, []).append((int(length[0]), path))
  for name, recipes in groups.items():
    each = ",".join(str(length) for length, _ in sorted(recipes))
    each = f"{{{each}}}" if len(recipes) > 1 else each
    chips = int(re.search(r"_(\d+)xb\d+", name)[1])
    yield Row(name.replace("*", each), recipes[0][1], chips, [])


def _scaling(pattern: str) -> Iterator[Row]:
  for name, images in SCALING:
    if fnmatch.fnmatch(name, pattern):
      for chips in SCALES:
        batch = [("data.batch_size", str(images * chips))]
        yield Row(name, RECIPES / f"{name}.py", chips, batch)


def _until_it_fits(
  row: Row, kind: str, cache: pathlib.Path | None
) -> Iterator[str]:
  """Yields a line for the slice, and for larger ones until the step fits."""
  while True:
    line, fits = _line(row, kind, cache)
    yield line
    if fits or row.chips == _MOST:
      return
    row = row._replace(chips=row.chips * (4 if row.chips == 1 else 2))


def _line(row: Row, kind: str, cache: pathlib.Path | None) -> tuple[str, bool]:
  """Makes a line of the table, and says whether the step fits."""
  where = Slice.named(f"{kind}:{FLAT[row.chips]}")
  print(f"{row.name} on {where.name}", flush=True)
  config = settings.load(str(row.path), row.overrides)
  experiment = build(config, where)
  images = experiment.data.batch_size // experiment.partitioner.num_devices
  start = f"| {row.name} | {where.name} | {images} "
  try:
    program = compile_step(experiment, cache)
  except DoesNotFit as error:
    need = f"needs {error.needed / GIB:.1f} of {error.limit / GIB:.2f}"
    return f"{start}| {need} |{' |' * 6}\n", False
  return start + cells(Report.of(experiment, where, program)), True


def cells(report: Report) -> str:
  """The table cells with the figures of a report."""
  of_needed = f"({report.flops / report.needed:.3f})"
  moved = ", ".join(
    f"{calls} {kind} {dtype} {payload / 1e6:,.1f}"
    for (kind, dtype), (calls, payload, _) in report.exchanged().items()
  )
  sums = report.sums(backward=True)
  total = sum(sums.values())
  types = ", ".join(
    f"{dtype} {size / total:.0%}" for dtype, size in sums.items() if size
  )
  times = ", ".join(f"{1e3 * x:.1f}" for x in report.seconds.values())
  return (
    f"| {report.program.peak / GIB:.1f}"
    f" | {report.flops / 1e12:.2f} {of_needed}"
    f" | {report.hbm_bytes / 1e9:.1f}"
    f" | {moved or '-'} | {types or '-'} | {times}"
    f" | {report.images_per_second:,.0f} ({report.bound}) |\n"
  )
