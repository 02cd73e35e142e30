"""The card of a run: what was run, with what, and what came of it.

`card.json` and `CARD.md` in the workdir. The results of evaluations, each a
file `evaluations/<name>/result.json`, are part of it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import metrics, storage
from sslx.experiment import Experiment
from sslx.recipes import names

FILE, PAGE = "card.json", "CARD.md"
EVALUATIONS, RESULT = "evaluations", "result.json"

Card = dict[str, Any]


def of_run(experiment: Experiment, config: ConfigDict) -> Card:
  """Returns what is known of a run before its first step."""
  state, data = experiment.abstract_state, experiment.data
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
  return {
    "version": 1,
    "recipe": names.full_name(config),
    "method": config.model.method,
    "backbone": config.model.backbone.name,
    "parameters": count,
    "data": {"source": data.source, "images": len(experiment.train)},
    "batch_size": data.batch_size,
    "length": experiment.schedule.length,
    "total_steps": experiment.total_steps,
    "seed": experiment.runtime.seed,
    "config": config_lib.fingerprint(config),
    **circumstances(experiment.partitioner.mesh.devices.flat),
  }


def circumstances(devices: Any) -> Card:
  """Returns command, commit, versions, hardware and date of this process."""
  devices = list(devices)
  kind = devices[0].device_kind
  if devices[0].platform == "cpu":
    kind = f"{kind} ({platform.machine()}, {os.cpu_count()} cores)"
  packages = ("sslx", "jax", "flax", "optax", "orbax-checkpoint")
  return {
    "command": command(),
    "commit": _commit(),
    "versions": {
      "python": platform.python_version(),
      **{name: _version(name) for name in packages},
    },
    "hardware": f"{len(devices)} x {kind}",
    "processes": jax.process_count(),
    "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
  }


def _version(package: str) -> str | None:
  """Returns the version of a package; None if it was not installed as one."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def command() -> str:
  """Returns the command line of this process."""
  program, *arguments = sys.orig_argv
  return shlex.join([pathlib.PurePath(program).name, *arguments])


def _commit() -> str | None:
  """Returns the commit of a checkout; None for an installed package."""
  root = pathlib.Path(__file__).parents[1]
  if not (root / ".git").exists():
    return None
  try:
    found = subprocess.run(
      ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"],
      capture_output=True, text=True, timeout=30,
    )  # fmt: skip
  except (OSError, subprocess.TimeoutExpired):  # No git on this machine.
    return None
  return found.stdout.strip() or None


def write(workdir: epath.Path, facts: Card) -> None:
  """Writes the card of a run, with the results that are there now.

  Args:
    workdir: workdir of the run.
    facts: as `of_run` or `read` returns them.

  Raises:
    StorageError: something cannot be read or written.
  """
  rows = metrics.read(workdir, lambda text: None)
  evaluated = [row for row in rows if metrics.evaluation(row)]
  first = [row for row in evaluated if row["step"] == 0]
  card = facts | {
    "steps": max((row["step"] for row in rows), default=0),
    "seconds": _seconds(rows, facts["batch_size"]),
    "before": metrics.evaluation(first[0]) if first else {},
    "after": metrics.evaluation(evaluated[-1]) if evaluated else {},
    "evaluations": _evaluations(workdir),
  }
  storage.write(workdir / FILE, json.dumps(card, indent=2) + "\n")
  storage.write(workdir / PAGE, text(card))


def _seconds(rows: list[dict[str, Any]], batch_size: int) -> float:
  """Seconds of training: without compilation, evaluations and saves."""
  total, before = 0.0, 0
  for row in rows:
    if speed := row.get("images_per_second"):
      total += (row["step"] - before) * batch_size / speed
      before = row["step"]
  return round(total, 1)


def read(workdir: epath.Path) -> Card | None:
  """Reads the card of a run; None if it has none, or a damaged one.

  Raises:
    StorageError: it cannot be read.
  """
  return _read(workdir / FILE)


def _read(path: epath.Path) -> Card | None:
  """Reads a JSON object; None if there is none, or a damaged one."""
  with storage.accessing(path, "read"):
    data = path.read_bytes() if path.exists() else b""
  try:
    found = json.loads(data)
  except (ValueError, RecursionError):  # Not JSON, or not UTF-8.
    return None
  return found if isinstance(found, dict) else None


def add(workdir: epath.Path, name: str, result: Card) -> None:
  """Writes the result of an evaluation, and adds it to the card.

  Args:
    workdir: workdir of the evaluated run.
    name: folder of the evaluation; a result of that name is replaced.
    result: has protocol, version, data, network, step, config, results, and
      the `circumstances`.

  Raises:
    StorageError: something cannot be read or written.
  """
  folder = workdir / EVALUATIONS / name
  storage.make_folder(folder)
  storage.write(folder / RESULT, json.dumps(result, indent=2) + "\n")
  if facts := read(workdir):  # Older versions wrote no card.
    write(workdir, facts)


def _evaluations(workdir: epath.Path) -> list[Card]:
  """The results, each with that of an untrained encoder by its protocol."""
  folder = workdir / EVALUATIONS
  with storage.accessing(folder, "read"):
    if not folder.is_dir():
      return []
    folders = sorted(folder.iterdir())
  found = [x for x in (_read(one / RESULT) for one in folders) if x]
  key = lambda x: (x["protocol"], x["version"], x["data"], x["changed"])
  untrained = [x for x in found if x["network"] == "untrained"]
  trained = [x for x in found if x["network"] != "untrained"]
  for result in trained:
    for base in untrained:
      if key(base) == key(result):
        result["before"] = base["results"]
  return trained


def text(card: Card) -> str:
  """Returns the card as Markdown."""
  data = card["data"]
  lines = [
    f"# {card['recipe']}",
    "",
    f"{card['method']}, {card['backbone']}, {card['parameters']:,} parameters."
    f" {card['length']} on {data['source']} ({data['images']:,} images), batch"
    f" {card['batch_size']}; step {card['steps']} of {card['total_steps']}, in"
    f" {card['seconds']:,.0f} s of training on {card['hardware']}.",
    "",
    "| evaluation during the run | untrained | trained |",
    "| --- | --- | --- |",
  ]
  for name, value in card["after"].items():
    first = card["before"].get(name)
    lines.append(f"| {name} | {_shown(first)} | {_shown(value)} |")
  if card["evaluations"]:
    lines += [
      "",
      "| protocol | data | step | network | result | untrained encoder |",
      "| --- | --- | --- | --- | --- | --- |",
    ]
  for x in card["evaluations"]:
    changed = f" with {', '.join(x['changed'])}" if x["changed"] else ""
    before = x.get("before", {})
    cells = [
      f"{x['protocol']} v{x['version']}{changed}",
      *(x["data"], x["step"], x["network"]),
      ", ".join(f"{k} {_shown(v)}" for k, v in x["results"].items()),
      ", ".join(f"{k} {_shown(v)}" for k, v in before.items()) or "not run",
    ]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  lines += [
    "",
    f"Seed {card['seed']}, config {card['config']}, commit {card['commit']},"
    f" {', '.join(f'{k} {v}' for k, v in card['versions'].items())},"
    f" {card['date']}.",
    "",
    "```shell",
    card["command"],
    "```",
    "",
  ]
  return "\n".join(lines)


def _shown(value: float | None) -> str:
  return "not run" if value is None else f"{value:.4g}"
