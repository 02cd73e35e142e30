"""Prepares data: `python -m sslx.prepare NAME [--out=DATA_DIR] [--from=PATH]`.

NAME is one of:
  cifar10, or any other TFDS set: TFDS downloads and writes it, which needs
    TensorFlow.
  imagenet2012: made from the official tar files in the folder --from, which are
    read in place, or from the folders train and val in it.
  a new name: made from the folder of images --from. Its sub-folders `train` and
    `val`, if they exist, become the splits `train` and `test`; their
    sub-folders are the classes.

--short_side=320 resizes larger images once, which doubles the reading speed.
--raw=256 stores the resized pixels, for five times the speed and the space.
--only=LIST.txt takes the training images whose file names are in a list, one
per line, and all images of the other splits. These sets have their own names:
NAME_short320_q90, NAME_raw256 and NAME_LIST. Without --from they are made from
the prepared set NAME.

--stage=DIR copies a prepared set to a folder of this host, on disk or in
memory. --from=PATH is its source: a shared folder or a URL such as
gs://bucket/tfds.

To resume an interrupted command, run it again. A set gets its final name only
when it is complete. --verify checks an existing set: it compares the checksums
of all files with those taken when they were written, and decodes a sample of
the images. If there are no checksums, it decodes all images. --verify=quick
checks only the number of records of each file, and the sample.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from typing import Any

from sslx.config import ConfigError

# Slow modules are imported where they are used, because the worker processes
# import this file and do not need them.


class Progress:
  """A progress bar: rewritten on a terminal, periodic lines in a file."""

  def __init__(self, total: int, unit: str = "images"):
    """Starts the clock.

    Args:
      total: total number of units.
      unit: name of the unit.
    """
    self._total, self._unit, self._first = total, unit, None
    self._began = self._shown = time.monotonic()
    self._live, self._ended = sys.stdout.isatty(), False

  def __call__(self, done: int) -> None:
    """Shows the number of units done."""
    from sslx.progress import duration

    now = time.monotonic()
    if self._first is None:
      self._first = done  # Done by an earlier run.
    ends = done == self._total
    if self._ended or (
      now - self._shown < (0.2 if self._live else 30) and not ends
    ):
      return
    self._shown, self._ended = now, ends
    speed = (done - self._first) / max(now - self._began, 1e-9)
    left = (self._total - done) / speed if speed else float("inf")
    bar = "#" * (30 * done // max(self._total, 1))
    print(
      ("\r\033[K" if self._live else "")
      + f"[{bar:-<30}] {done:,}/{self._total:,} {self._unit}  {speed:,.0f}"
      f" {self._unit}/s  ETA {duration(left)}",
      end="" if self._live and not ends else "\n",
      flush=True,
    )


def form_of(flags: argparse.Namespace) -> Any:
  """The `encode.Form` that the flags specify.

  Raises:
    ConfigError: the flags contradict each other or are out of range.
  """
  from sslx.data import encode

  if flags.raw is not None and (flags.short_side or flags.quality):
    raise ConfigError("--raw stores pixels: leave out --short_side, --quality.")
  if flags.quality is not None and flags.short_side is None:
    raise ConfigError("--quality is that of smaller images: give --short_side.")
  for name, top in (("short_side", 4096), ("raw", 4096), ("quality", 100)):
    value = getattr(flags, name)
    if value is not None and not 1 <= value <= top:
      raise ConfigError(f"--{name}={value} is not from 1 to {top}.")
  if flags.workers < 1:
    raise ConfigError(f"--workers={flags.workers} is not positive.")
  if flags.raw is not None:
    return encode.Form(flags.raw)
  if flags.short_side is not None:
    return encode.Form(flags.short_side, flags.quality or 90)
  return encode.Form(jpeg=flags.name == "imagenet2012")


def request_of(flags: argparse.Namespace, form: Any, out: str) -> Any:
  """Finds the images and makes a `store.Request`; None if TFDS writes the set.

  Raises:
    ConfigError: the images do not exist, or another set has the name.
  """
  from sslx.data import files, imagenet, listed, prepared, store

  suffix, chosen = "", None
  if flags.only is not None:
    suffix, chosen = _suffix(flags.only), listed.read(flags.only)
  source, notes = flags.source and os.path.realpath(flags.source), []
  if flags.source is None:
    if form.short_side is None and chosen is None:
      return None
    if chosen:
      print("note: all records are read once, for their file names")
    source, splits, classes = prepared.open_splits(
      flags.name, out, named=chosen is not None
    )
  elif flags.name == "imagenet2012":
    splits, notes = imagenet.open_splits(flags.source, flags.partial)
    classes = imagenet.classes()
  else:
    _check_new(flags.name)
    train = files.open_files(flags.source, None, "train", key="--from")
    test = files.open_files(
      flags.source, None, "test", train.classes, key="--from"
    )
    splits = {"train": train} | ({"test": test} if test else {})
    classes = train.classes
    notes = [note for images in splits.values() for note in images.notes]
    _check_classes(classes or ())
  for note in notes:
    print(f"note: {note}")
  if chosen:
    splits = {**splits, "train": _part(splits.get("train"), chosen, source)}
    print(f"the training images are those of {chosen}")
  name = re.sub(r"\W+", "_", flags.name) + suffix + form.suffix
  version = "5.1.0" if name == "imagenet2012" else "1.0.0"
  folder = os.path.join(out, name, version)
  part = str(chosen or "")
  return store.Request(folder, splits, classes, form, source, part)


def _suffix(path: str) -> str:
  """Suffix of the set's name: the name of the list's file."""
  name = os.path.splitext(os.path.basename(path))[0]
  if not re.fullmatch(r"[a-z0-9_]+", name):
    raise ConfigError(
      f"--only={path!r}: the set is called NAME_{name}. Give the file a name of"
      " lower-case letters, digits and _."
    )
  return f"_{name}"


def _part(images: Any, chosen: Any, source: str) -> Any:
  """The listed images of a training split."""
  from sslx.data import sets

  if images is None:
    raise ConfigError(
      f"--only chooses from the split 'train'; {source} has none."
    )
  names = (images.file_name(i) for i in range(len(images)))
  return sets.Part(images, chosen.places(names, source))


def _check_new(name: str) -> None:
  """Rejects an invalid name and the name of an existing TFDS or sslx set."""
  import tensorflow_datasets as tfds

  known = tfds.list_builders(with_community_datasets=False)
  known += ["shapes", "folder"]
  if name in known or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    what = "that of another set" if name in known else "not a name"
    raise ConfigError(
      f"{name!r} is {what}. A folder of images is prepared under a new name of"
      " lower-case letters, digits and _."
    )


def _check_classes(classes: tuple[str, ...]) -> None:
  """Rejects class names that a file with one name per line cannot hold."""
  wrong = [name for name in classes if not name.isprintable()]
  if wrong:
    raise ConfigError(
      f"{len(wrong)} folders have names that are not printable text, such as"
      f" {wrong[0]!r}. Rename them: they are the names of the classes."
    )


def verify(name: str, out: str, how: str) -> None:
  """Checks an existing set.

  Args:
    name: name of the set.
    out: TFDS directory.
    how: value of --verify, "all" or "quick".

  Raises:
    ConfigError: the set does not exist or is damaged.
  """
  from sslx.data import builders, check

  source = builders.Source(name, out, prepare=False)
  builder = builders.prepared(source, builders.ARGUMENTS)
  folder = os.fspath(builder.data_path)
  quick = how == "quick"
  checked = check.check(folder, compare=not quick, sample=quick)
  if checked.problems:
    raise ConfigError(check.message(folder, checked.problems))
  counts = [
    f"{s.name} {s.num_examples:,}" for s in builder.info.splits.values()
  ]
  print(f"{folder} is in order: {', '.join(counts)} images")
  if checked.summed:
    print(f"  checksums: all {checked.summed:,} files are as they were written")
  else:
    why = "not compared" if quick else "there are none"
    print(f"  checksums: {why}, so a byte that changed may go unnoticed")
  print(f"  {checked.decoded:,} of {checked.images:,} images were decoded")


def stage(name: str, source: str | None, target: str, workers: int) -> None:
  """Copies a set to this host.

  Raises:
    ConfigError: see `data.stage.stage`.
  """
  from sslx.data import stage as stage_lib

  if source is None:
    raise ConfigError("--stage copies a prepared set: give its --from.")
  bar = None

  def progress(done: int, total: int) -> None:
    nonlocal bar
    # Rounded up, so that the bar is full only at the end.
    size = -(-total // 2**20)
    bar = bar or Progress(size, "MiB")
    bar(size if done == total else done // 2**20)

  began = time.monotonic()
  target = os.path.abspath(os.path.expanduser(target))
  staged = stage_lib.stage(name, source, target, workers, progress)
  size = f"{staged.files} files, {staged.num_bytes / 2**30:.2f} GiB"
  if staged.copied is None:
    print(f"{staged.folder} is there already: {size}; nothing is copied")
  else:
    seconds = time.monotonic() - began
    speed = staged.copied / 2**20 / seconds
    print(
      f"{staged.folder} is copied and checked: {size};"
      f" {staged.copied / 2**30:.2f} GiB of it now, in {seconds:.1f} s"
      f" ({speed:,.0f} MiB/s)"
    )
  print(f"Use it: --config.data.source={name} --config.data.data_dir={target}")


def main(argv: list[str]) -> None:
  """Runs the command line."""
  parser = argparse.ArgumentParser(
    prog="python -m sslx.prepare",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument("name", metavar="NAME")
  parser.add_argument("--out", help="default: as TFDS's, ~/tensorflow_datasets")
  parser.add_argument("--from", dest="source", metavar="PATH")
  parser.add_argument("--short_side", type=int, metavar="PIXELS")
  parser.add_argument("--quality", type=int, help="of the JPEGs; default: 90")
  parser.add_argument("--raw", type=int, metavar="PIXELS")
  parser.add_argument("--only", metavar="LIST.txt")
  parser.add_argument(
    "--workers", type=int, default=os.cpu_count(), help="default: all cores"
  )
  parser.add_argument(
    "--verify", nargs="?", const="all", choices=["all", "quick"]
  )
  parser.add_argument("--stage", metavar="DIR")
  parser.add_argument(
    "--partial", action="store_true", help="accept a part of ImageNet"
  )
  flags = parser.parse_args(argv)
  form = form_of(flags)
  if flags.stage is not None:
    given = (flags.out, flags.short_side, flags.raw, flags.verify, flags.only)
    if any(value is not None for value in given):
      raise ConfigError("--stage copies a set as it is: it takes --from alone.")
    return stage(flags.name, flags.source, flags.stage, flags.workers)
  default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  out = os.path.abspath(os.path.expanduser(flags.out or default))
  from_prepared = (form.short_side or flags.only) and not flags.source
  if flags.verify or from_prepared:
    if not os.path.isdir(out):
      raise ConfigError(
        f"{out} does not exist. Set --out to the folder that {flags.name!r} is"
        " prepared in."
      )
  if flags.verify:
    return verify(flags.name, out, flags.verify)
  request = request_of(flags, form, out)
  if request is None:
    from sslx.data import builders, sums

    os.makedirs(out, exist_ok=True)
    source = builders.Source(flags.name, out)
    made = builders.prepared(source, builders.ARGUMENTS)
    folder = os.fspath(made.data_path)
    verify(flags.name, out, "all")
    if sums.read(folder) is None:
      sums.write(folder)
    return

  from sslx.data import store

  progress = Progress(sum(map(len, request.splits.values())))
  counts = store.write(request, flags.workers, progress)
  print(f"{request.folder} is prepared and checked:")
  for split, (images, skipped) in counts.items():
    note = f", and {skipped:,} skipped (see skipped.txt)" if skipped else ""
    print(f"  {split}: {images:,} images{note}")
  name = os.path.basename(os.path.dirname(request.folder))
  print(f"Use it: --config.data.source={name} --config.data.data_dir={out}")


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except ConfigError as error:
    sys.exit(f"error: {error}")
  except KeyboardInterrupt:
    sys.exit("\nstopped; the same command goes on from here")
