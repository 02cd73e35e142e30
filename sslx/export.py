"""Writes a run's backbone for other libraries.

  python -m sslx.export --workdir=W --to=timm

Neither the run's data nor torch is needed. The README in the written folder
says how to load it.
"""

from __future__ import annotations

import argparse
import sys

from etils import epath

from sslx import config as config_lib
from sslx.checkpoint import CheckpointError
from sslx.weights import export, hf
from sslx.weights.run import open_run


def main(argv: list[str]) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(
    prog="sslx.export",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--workdir", required=True, help="of the run")
  parser.add_argument("--to", required=True, choices=export.TARGETS)
  parser.add_argument(
    "--out", help="folder; WORKDIR/exports/TO-STEP by default"
  )
  parser.add_argument(
    "--step", type=int, help="of the checkpoint; the newest by default"
  )
  parser.add_argument(
    "--what",
    choices=("student", "teacher"),
    help="which network; by default the one that the paper publishes",
  )
  parser.add_argument(
    "--features",
    choices=("cls", "pooled"),
    help="timm: what a ViT gives; by default what the run's config names",
  )
  parser.add_argument(
    "--model_type",
    choices=hf.MODEL_TYPES,
    help="hf: of a ViT; by default vit, or dinov2 with layer scale",
  )
  flags = parser.parse_args(argv)
  if flags.features and flags.to != "timm":
    parser.error("--features goes with --to=timm alone")
  if flags.model_type and flags.to != "hf":
    parser.error("--model_type goes with --to=hf alone")
  run = open_run(flags.workdir, flags.step, flags.what)
  default = epath.Path(run.workdir) / "exports" / f"{flags.to}-{run.step}"
  out = epath.Path(flags.out) if flags.out else default
  options = export.Options(flags.features, flags.model_type)
  for line in export.write(run, flags.to, out, options):
    print(line)


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except (config_lib.ConfigError, CheckpointError) as error:
    sys.exit(f"error: {error}")
