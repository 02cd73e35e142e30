"""Writes features of images: `python -m sslx.features --workdir=W --out=F.npz`.

  --data=/data/pets            a folder of images, see config.data.data_dir
  --data=cifar10               a TFDS set, with --data_dir and --split
  --features=final,stage3      outputs of stages, or of blocks: layer3_1,
                               blocks_7

Without --data, the images are the run's own training set. Each row is one
image, in the order of the set. The .npz file holds an array for each feature
name, `labels` (-1 for no label) and `names`. A .parquet file holds the same as
columns.
"""

from __future__ import annotations

import argparse
import sys

from etils import epath

from sslx import config as config_lib
from sslx.checkpoint import CheckpointError
from sslx.config import ConfigError
from sslx.data import sources
from sslx.data.sets import Images
from sslx.features.extract import extract
from sslx.features.table import WRITERS, write
from sslx.weights.run import Run, open_run


def open_set(
  run: Run, data: str | None, data_dir: str | None, split: str | None
) -> Images:
  """Opens the data set that the command line names.

  Args:
    run: the run; its training set is the default.
    data: a folder of images, or the name of a data set.
    data_dir: folder of the named data set; by default the run's.
    split: split of the data set; for a folder of images, a sub-folder, pattern
      or list.

  Raises:
    ConfigError: there is no such set or split, or it cannot be read.
  """
  source = sources.named(run.data.records, data, data_dir, split, split)
  role = "test" if split == "test" else "train"
  return sources.load(source, role)


def main(argv: list[str]) -> None:
  """Writes the features that the command line asks for."""
  parser = argparse.ArgumentParser(
    prog="sslx.features",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--workdir", required=True, help="of the run")
  parser.add_argument("--out", required=True, help="a .npz or .parquet file")
  parser.add_argument(
    "--data", help="folder of images or name of a set; the run's by default"
  )
  parser.add_argument("--data_dir", help="where the set is")
  parser.add_argument(
    "--split", help="of the set; of a folder a sub-folder, pattern or list"
  )
  parser.add_argument(
    "--features", default="final", help="names, with commas between them"
  )
  parser.add_argument("--batch_size", type=int, default=512)
  parser.add_argument(
    "--step", type=int, help="of the checkpoint; the newest by default"
  )
  parser.add_argument(
    "--what",
    choices=("student", "teacher"),
    help="which network; by default the one that the paper publishes",
  )
  flags = parser.parse_args(argv)
  if flags.batch_size < 1:
    parser.error(f"--batch_size={flags.batch_size} is not 1 or more")
  out = epath.Path(flags.out)
  if out.suffix not in WRITERS:
    raise ConfigError(f"--out={out}: it must end in {' or '.join(WRITERS)}.")
  run = open_run(flags.workdir, flags.step, flags.what)
  images = open_set(run, flags.data, flags.data_dir, flags.split)
  names = flags.features.split(",")
  table = extract(run, images, names, flags.batch_size)
  metadata = {
    "method": run.config.model.method,
    "network": run.network,
    "config": config_lib.fingerprint(run.config),
    "step": str(run.step),
  }
  write(out, table, metadata)
  widths = ", ".join(f"{k} {x.shape[1]}" for k, x in table.features.items())
  print(f"{out}: {len(table.names):,} images, features {widths}")
  for name in table.unread[:5]:
    print(f"cannot be decoded, and left out: {name}")
  if len(table.unread) > 5:
    print(f"and {len(table.unread) - 5} more")


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except (ConfigError, CheckpointError) as error:
    sys.exit(f"error: {error}")
