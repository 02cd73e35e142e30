"""Launches training: `python -m sslx.launch WHERE VERB --flags -- ARGS`.

WHERE and VERB are one of:
  local                     run
  gpu_node                  run
  tpu_pod, tpu_mig          create setup run logs status stop delete
  tpu_pod, tpu_mig          retry: create, set up, run and delete; repeated
                            after preemptions until the job is done
  gke_xpk, gke_jobset       create logs status delete

ARGS are arguments of sslx.main: --config, --workdir, ... The scripts in
`launch/` call this. DRY_RUN=1 shows the commands and runs none.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
import typing

from sslx.launch import commands, gke, local, mig, pod, retry, slices

_WHERE = {
  "local": local.Local,
  "gpu_node": local.GpuNode,
  "tpu_pod": pod.QueuedResource,
  "tpu_mig": mig.InstanceGroup,
  "gke_xpk": gke.Xpk,
  "gke_jobset": gke.JobSet,
}
_ON_SLICES = ("create", "setup", "run", "logs", "status", "stop", "delete")
_VERBS = {
  local.Local: ("run",),
  local.GpuNode: ("run",),
  pod.QueuedResource: (*_ON_SLICES, "retry"),
  mig.InstanceGroup: (*_ON_SLICES, "retry"),
  gke.Xpk: ("create", "logs", "status", "delete"),
  gke.JobSet: ("create", "logs", "status", "delete"),
}


def main(argv: list[str]) -> int:
  """Runs the command given in `argv`; returns the exit code."""
  argv, args = _split(argv)
  parser = argparse.ArgumentParser(
    prog="python -m sslx.launch",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  places = parser.add_subparsers(dest="place", metavar="WHERE", required=True)
  for place, kind in _WHERE.items():
    verbs = places.add_parser(
      place, help=inspect.getdoc(kind).splitlines()[0]
    ).add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in _VERBS[kind]:
      flags = verbs.add_parser(verb, allow_abbrev=False)
      _add_flags(flags, kind)
      if verb == "retry":
        _add_flags(flags, retry.Policy)
      if verb in ("run", "retry") and place.startswith("tpu"):
        flags.add_argument(
          "--before",
          default="",
          metavar="COMMAND",
          help="run on each host before each start: mounts, staging of data",
        )
  given = vars(parser.parse_args(argv))
  kind = _WHERE[given["place"]]
  where = _build(kind, given)
  starts = "create" if kind in (gke.Xpk, gke.JobSet) else "run"
  _check_args(args, given["verb"] in (starts, "retry"))
  with commands.listening():
    return _do(where, given, args)


def _do(
  where: typing.Any, given: dict[str, typing.Any], args: list[str]
) -> int:
  verb = given["verb"]
  match where:
    case local.Local() | local.GpuNode():
      return local.run(where, args)
    case gke.Xpk() | gke.JobSet():
      if verb == "create":
        return commands.run(*where.create(args))
      return commands.run(getattr(where, verb)())
  slices.check_sources()
  match verb:
    case "create":
      return slices.create(where)[1].code
    case "setup":
      return slices.setup(where)
    case "run":
      return slices.run(where, args, given["before"])
    case "retry":
      policy = _build(retry.Policy, given)
      return retry.retry(where, args, policy, given["before"])
    case "status":
      found = slices.state(where)
      print(f"{where.name}: {found.state} ({found.detail})")
      return slices.each(where, verb) if found.state == slices.READY else 0
    case "delete":
      return slices.delete(where.steps())
  return slices.each(where, verb)  # logs, stop


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
  if "--" not in argv:
    return argv, []
  at = argv.index("--")
  return argv[:at], argv[at + 1 :]


def _check_args(args: list[str], takes: bool) -> None:
  if not takes:
    if args:
      commands.fail(f"this takes no arguments after --, such as {args[0]!r}.")
    return
  for flag in ("--config", "--workdir"):
    if not any(arg.split("=")[0] == flag for arg in args):
      commands.fail(
        f"{flag} is missing. The arguments of sslx.main come after --, such as:"
        " -- --config=configs/mae.py --workdir=/shared/mae"
      )


def _add_flags(parser: argparse.ArgumentParser, kind: type) -> None:
  """Adds a flag for each field; the class docstring gives the help texts."""
  help_ = dict(
    re.findall(r"^  (\w+): (.*(?:\n    .*)*)", inspect.getdoc(kind), re.M)
  )
  types = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    required = field.default is dataclasses.MISSING
    settings = {"help": re.sub(r"\s+", " ", help_[field.name])}
    choices = typing.get_args(types[field.name])
    if types[field.name] is bool:
      settings["action"] = "store_true"
    elif choices:
      settings["choices"] = choices
    else:
      settings["type"] = types[field.name]
    if required:
      settings["required"] = True
    else:
      settings["default"] = field.default
      if field.default and types[field.name] is not bool:
        settings["help"] += " (default: %(default)s)"
    parser.add_argument(f"--{field.name}", **settings)


def _build(kind: type, given: dict[str, typing.Any]) -> typing.Any:
  return kind(**{f.name: given[f.name] for f in dataclasses.fields(kind)})


if __name__ == "__main__":
  try:
    sys.exit(main(sys.argv[1:]))
  except commands.Failure as error:
    commands.fail(str(error))
  except commands.Stopped as stopped:
    commands.say(str(stopped))
    sys.exit(128 + stopped.number)
