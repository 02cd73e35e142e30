"""Measures speed: `python -m sslx.benchmark train|input|backbone --config=...`.

`train` prints images/s of the bare compiled step on a batch that stays on the
devices, images/s of the full loop (input, prefetch, log), and their ratio. It
also prints the time from the start of the process to the end of the first step,
without and with a persistent compilation cache.

`input` prints images/s of the loader alone for each number of threads, and the
time per image of each of its stages. `--peers` measures the same work in other
libraries, if they are installed.

`backbone` prints images/s of one training step of the backbone alone. `--peers`
compares it with the same network in PyTorch.
"""

from __future__ import annotations

import argparse
import sys

from sslx import config as config_lib
from sslx import settings
from sslx.benchmark import backbone, train
from sslx.benchmark import input as input_lib


def main(argv: list[str]) -> None:
  """Runs the benchmark that the command line names."""
  overrides, rest = config_lib.split_overrides(argv)
  parser = argparse.ArgumentParser(
    prog="sslx.benchmark",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "what", choices=("train", "input", "backbone", "first_step")
  )
  parser.add_argument("--config", required=True)
  parser.add_argument(
    "--steps", type=_positive, default=10, help="batches in a round"
  )
  parser.add_argument("--rounds", type=_positive, default=5)
  parser.add_argument(
    "--nostartup", action="store_true", help="train: without the starts"
  )
  parser.add_argument(
    "--threads",
    type=lambda text: [_positive(n) for n in text.split(",")],
    help="input: numbers of threads to compare, such as 1,2",
  )
  parser.add_argument(
    "--images_per_second",
    type=float,
    help="input: of an accelerator, which takes how many host cores?",
  )
  parser.add_argument(
    "--peers", action="store_true", help="beside other libraries"
  )
  flags = parser.parse_args(rest)
  config = settings.load(flags.config, overrides)
  if flags.what == "first_step":
    train.first_step(config)
  elif flags.what == "input":
    input_lib.bench_input(
      config,
      threads=flags.threads,
      steps=flags.steps,
      rounds=flags.rounds,
      wanted=flags.images_per_second,
      peers=flags.peers,
    )
  elif flags.what == "backbone":
    backbone.bench_backbone(config, flags.steps, flags.rounds, flags.peers)
  else:
    train.bench_train(config, flags.steps, flags.rounds)
    if not flags.nostartup:
      train.bench_startup([a for a in argv if a.startswith("--config")])


def _positive(text: str) -> int:
  number = int(text)
  if number < 1:
    raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
  return number


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except config_lib.ConfigError as error:
    sys.exit(f"error: {error}")
