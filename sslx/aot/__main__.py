"""Compiles the training step of a recipe for TPU chips that are not there.

`python -m sslx.aot --config=configs/mae.py:imagenet --topology=v5e:4x8` prints
for each chip: memory, beside what it has; FLOPs, beside what the method needs;
HBM traffic; what is exchanged between chips, and in which type gradients are
summed; how long a step takes at least by each, the images/s that follow, and
what they ask of the hosts. It takes the packages of `-e '.[tpu]'`, no TPU, and
minutes: a ViT some, a ResNet-50 ten on one core. ImageNet and CIFAR-10 need not
be there.

The exit status is 1 if the step does not fit in the chips' memory; then it
prints what may make it fit.

`--table` writes all recipes into a page of Markdown, each on the slice that its
name asks for: 8xb32 on 8 chips.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from sslx import config as config_lib
from sslx.aot import advice, table
from sslx.aot.chips import Slice
from sslx.aot.compile import DoesNotFit, build, compile_step
from sslx.aot.report import GIB, Report


def main(argv: list[str]) -> int:
  """Prints a report, or writes the table; returns the exit status."""
  overrides, rest = config_lib.split_overrides(argv)
  parser = argparse.ArgumentParser(
    prog="sslx.aot",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--config", help="with --config.a.b=value")
  parser.add_argument("--topology", default="v5e:4x4", help="chip:shape")
  parser.add_argument(
    "--host_images_per_second",
    type=float,
    help="of one host core, as `benchmark input` measures it",
  )
  parser.add_argument(
    "--cache", type=pathlib.Path, help="folder to keep compiled programs in"
  )
  parser.add_argument("--hlo", type=pathlib.Path, help="file for the program")
  parser.add_argument(
    "--table", nargs="?", const=table.PAGE, type=pathlib.Path, help="the page"
  )
  parser.add_argument(
    "--recipes", default="*", help="--table: pattern of their names"
  )
  flags = parser.parse_args(rest)
  if flags.table:
    table.write(flags.table, flags.topology, flags.recipes, flags.cache)
    return 0
  if not flags.config:
    parser.error("--config is needed, or --table")
  config = config_lib.load(flags.config, overrides)
  where = Slice.named(flags.topology)
  print(f"{flags.config} on {where.name}: {where.chips} chips", flush=True)
  experiment = build(config, where)
  b = experiment.data.batch_size
  each = b // experiment.partitioner.num_devices
  print(f"batch {b:,}: {each} a chip\n", flush=True)
  try:
    program = compile_step(experiment, flags.cache)
  except DoesNotFit as error:
    print(
      f"does not fit: needs {error.needed / GIB:.2f} GiB a chip, of"
      f" {error.limit / GIB:.2f} that XLA may use\n\nwhat may make it fit, by"
      " estimates that a run of sslx.aot has to confirm"
    )
    for line in advice.lines(experiment, config, where, error):
      print(f"  {line}")
    return 1
  if flags.hlo:
    flags.hlo.write_text(program.text)
  report = Report.of(experiment, where, program)
  print(*report.lines(flags.host_images_per_second), sep="\n")
  return 0


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv[1:]))
  except config_lib.ConfigError as error:
    sys.exit(f"error: {error}")
