"""Compiles the training step of a recipe for TPU chips, without any TPU.

`python -m sslx.aot --config=configs/mae.py:imagenet --topology=v5e:4x8` prints
for each chip: the memory of the step and of the chip; the FLOPs of the step and
those that the method needs; HBM traffic; the traffic between chips, and the
dtype in which gradients are summed. It also prints the minimum time of a step
by compute, memory and network, the images/s that follow, and the images/s that
each host has to supply. It needs the packages of `-e '.[tpu]'`. It takes some
minutes for a ViT, and ten for a ResNet-50 on one core. The images of ImageNet
and CIFAR-10 are not needed.

If the step does not fit in the chips' memory, it prints changes that may help,
and the exit status is 1.

`--table` writes a table of all recipes into a Markdown page. Each is compiled
for the slice in its name: 8xb32 for 8 chips.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from sslx import config as config_lib
from sslx import settings
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
  config = settings.load(flags.config, overrides)
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
