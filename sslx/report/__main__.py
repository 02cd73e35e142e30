"""Reports on runs and configs: `python -m sslx.report COMMAND`.

  run W [W ...] --out=report.html     one page of a run, or of several overlaid
  compare W [W ...] [--out=FILE]      a table of runs: .md, .html or .csv
  views --config=C [--out=views.png]  the network's input at the first step
  schedule --config=C [--out=FILE]    rates and other schedules: .html or .png
  model --config=C [--out=FILE]       parameters, FLOPs and activations by
                                      module: .md, .html or .json
  results [--out=FILE]                targets of the recipes, and what the runs
                                      reached whose cards are in configs/results

W is the workdir of a run, finished or not. C is a config file, with
--config.a.b=value as for `sslx.main`. `schedule` and `model` need the number of
training images: give --images=N if the set is not on this machine.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from etils import epath

from sslx import config as config_lib
from sslx import settings, storage
from sslx.config import ConfigError
from sslx.errors import RunError
from sslx.recipes import results
from sslx.report import tables
from sslx.report.tables import Table


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sslx.report",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True)

  one = commands.add_parser("run")
  one.add_argument("workdir", nargs="+")
  one.add_argument("--out", default="report.html", help="a .html file")
  one.add_argument(
    "--nodata", action="store_true", help="leave out what reads the images"
  )
  one.add_argument(
    "--images", type=int, default=1000, help="images of the map, at most"
  )
  one.add_argument("--map", choices=("tsne", "umap"), default="tsne")

  several = commands.add_parser("compare")
  several.add_argument("workdir", nargs="+")
  several.add_argument("--out", help="a .md, .html or .csv file")

  listed = commands.add_parser("results")
  listed.add_argument("--out", help="a .md file")

  views = commands.add_parser("views")
  views.add_argument("--config", required=True)
  views.add_argument("--images", type=int, default=4, help="how many")
  views.add_argument("--out", default="views.png", help="a file, or gs://...")

  for name, kinds in (
    ("schedule", ".html or .png"),
    ("model", ".md, .html or .json"),
  ):
    planned = commands.add_parser(name)
    planned.add_argument("--config", required=True)
    planned.add_argument("--out", help=f"a {kinds} file")
    planned.add_argument(
      "--images", type=int, help="of the training set, if it is not here"
    )
  planned.add_argument(
    "--depth", type=int, default=2, help="levels of modules to show"
  )
  return parser


def main(argv: Sequence[str]) -> None:
  """Runs the command line."""
  overrides, rest = config_lib.split_overrides(list(argv))
  parser = _parser()
  flags = parser.parse_args(rest)
  alone = {"run": _run, "compare": _compare, "results": _results}
  if overrides and flags.command in alone:
    parser.error("--config.KEY=VALUE go with views, schedule and model")
  for key in ("images", "depth"):
    n = getattr(flags, key, None)
    if n is not None and n < 1:
      parser.error(f"--{key}={n} is not 1 or more")
  if flags.command in alone:
    alone[flags.command](flags)
  else:
    config = settings.load(flags.config, overrides)
    command = {"views": _views, "schedule": _schedule, "model": _model}
    command[flags.command](flags, config)


def _run(flags: argparse.Namespace) -> None:
  from sslx.report import run, workdirs

  out = tables.check_suffix(flags.out, (".html",))
  found = workdirs.read(flags.workdir)
  shown = run.Settings(not flags.nodata, flags.images, flags.map)
  _write(out, run.html(found, shown))


def _compare(flags: argparse.Namespace) -> None:
  from sslx.report import compare, workdirs

  out = flags.out and tables.check_suffix(flags.out, (".md", ".html", ".csv"))
  _show(compare.tables(workdirs.read(flags.workdir)), out)


def _results(flags: argparse.Namespace) -> None:
  text = results.page(results.rows())
  if flags.out:
    _write(tables.check_suffix(flags.out, (".md",)), text)
  else:
    print(text, end="")


def _views(flags: argparse.Namespace, config: config_lib.ConfigDict) -> None:
  from sslx.report import views

  out = storage.path(flags.out, "--out")
  picture = io.BytesIO()
  views.draw(views.first_views(config, flags.images)).save(picture, "PNG")
  storage.write(out, picture.getvalue())
  print(
    f"{flags.out}: {flags.images} images of the first batch and their views"
  )


def _schedule(flags: argparse.Namespace, config: config_lib.ConfigDict) -> None:
  from sslx.report import planned, schedule

  out = flags.out and tables.check_suffix(flags.out, (".html", ".png"))
  experiment = planned.build(config, flags.images)
  found = schedule.curves(experiment)
  table = schedule.table(found, experiment)
  print(tables.text([table]), end="")
  if not out:
    return
  from sslx.report import curves, page

  plan = experiment.step.method.plan
  charts = curves.of_schedules(
    found, schedule.sampled(found, plan), plan.steps_per_epoch
  )
  if out.suffix == ".png":
    _write(out, curves.png(charts))
  else:
    _write(out, page.of_tables(f"Schedules of {flags.config}", [table], charts))


def _model(flags: argparse.Namespace, config: config_lib.ConfigDict) -> None:
  from sslx.report import model, planned

  out = flags.out and tables.check_suffix(flags.out, (".md", ".html", ".json"))
  _show(model.tables(planned.build(config, flags.images), flags.depth), out)


def _show(shown: Sequence[Table], out: epath.Path | None) -> None:
  """Prints tables, or writes them in the format of the file's suffix."""
  print(tables.text(shown), end="")
  if not out:
    return
  if out.suffix == ".html":
    from sslx.report import page

    _write(out, page.of_tables(shown[0].title, shown))
  else:
    _write(out, tables.FORMATS[out.suffix](shown))


def _write(out: epath.Path, data: str | bytes) -> None:
  storage.write(out, data)
  print(f"{os.fspath(out)}: {len(data) / 1e6:.1f} MB")


if __name__ == "__main__":
  try:
    main(sys.argv[1:])
  except (ConfigError, RunError) as error:
    sys.exit(f"error: {error}")
