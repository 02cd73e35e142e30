"""Stands in for gcloud, kubectl, xpk, sky, ... on PATH, as told by a scenario.

`install` makes a folder of such commands. Each notes its arguments in `log`,
and plays its part of `scenario.json`:

  lives: the slices that `create` gives, one after the other, each
      {"states": [...], "runs": [{"codes": [...], "then": state}, ...]}:
      what `describe` says, the last one over and over; and how the command
      `worker.sh run` ends on each host, after which the state is `then`.
      Without "runs" commands of ssh really run, in a home for each host, with
      the environment of `environment`.
  refused: what `create` says before it succeeds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys

COMMANDS = ("gcloud", "kubectl", "xpk", "sky", "sudo", "nvidia-smi")
# On hosts, so that nothing is installed in a test: what `uv venv` makes is a
# Python that takes its machine for a TPU VM.
ON_HOSTS = ("python3", "pip", "uv")


def install(folder: pathlib.Path, scenario: dict) -> dict[str, str]:
  """Makes the commands; returns the environment in which they are found."""
  for name in COMMANDS:
    _write(folder / "bin" / name, f"-SE {__file__} {name}")
  for name in ON_HOSTS:
    _write(folder / "host" / name, f"-SE {__file__} {name}")
  (folder / "scenario.json").write_text(json.dumps(scenario))
  (folder / "log").touch()
  return {
    "PATH": f"{folder}/bin:{os.environ['PATH']}",
    "FAKE": str(folder),
    "PYTHON": sys.executable,
  }


def _write(path: pathlib.Path, arguments: str) -> None:
  """Makes a command of this Python with these arguments."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
  path.chmod(0o755)


def log(folder: pathlib.Path) -> list[str]:
  """The commands so far, without the Python that ran the fake."""
  return (folder / "log").read_text().splitlines()


@contextlib.contextmanager
def changed(folder: pathlib.Path):
  """The scenario, to read and to change, while no other process does."""
  with open(folder / "scenario.json", "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    told = json.load(file)
    yield told
    file.seek(0)
    file.truncate()
    json.dump(told, file)


def main(name: str, arguments: list[str]) -> int:
  """Plays a command; returns its exit code."""
  folder = pathlib.Path(os.environ["FAKE"])
  with open(folder / "log", "a") as file:
    file.write(" ".join([name, *arguments]).replace("\n", "\\n") + "\n")
  if name == "gcloud":
    return _gcloud(folder, arguments)
  if name in ON_HOSTS:
    _on_host(name, arguments)
  if name == "nvidia-smi":
    print("GPU 0: none\nGPU 1: none")
  if name == "kubectl" and "apply" in arguments:
    (folder / "applied").write_text(sys.stdin.read())
  return 0


def _on_host(name: str, arguments: list[str]) -> None:
  made = pathlib.Path(arguments[-1]) / "bin"
  if name == "python3" and arguments[:2] == ["-m", "venv"]:
    _write(made / "python", f"-SE {__file__} pip")
    _write(made / "uv", f"-SE {__file__} uv")
  if name == "uv" and arguments[0] == "venv":
    here = pathlib.Path(__file__).parent
    _write(made / "python", str(here / "on_tpu.py"))


def _gcloud(folder: pathlib.Path, arguments: list[str]) -> int:
  verb = next(
    word
    for word in arguments
    if word in ("create", "delete", "describe", "ssh", "scp", "resize")
    or word == "list-instances"
  )
  if verb in ("ssh", "scp"):
    return getattr(sys.modules[__name__], f"_{verb}")(folder, arguments)
  with changed(folder) as told:
    made = told.setdefault("made", [])
    # Of an instance group, three things are made; the last is the slice.
    kind = next(
      kind
      for kind in (
        "resource-policies",
        "instance-templates",
        "instance-groups",
        "queued-resources",
      )
      if kind in arguments
    )
    is_slice = kind in ("instance-groups", "queued-resources")
    if verb == "create":
      if is_slice and told.get("refused"):
        print(told["refused"].pop(0), file=sys.stderr)
        return 1
      made.append(kind)
      if is_slice:
        shutil.rmtree(folder / "hosts", ignore_errors=True)
        told["life"] = told["lives"].pop(0)
    elif kind not in made:
      print(f"ERROR: (gcloud) NOT_FOUND: {kind} was not found", file=sys.stderr)
      return 1
    elif verb == "delete":
      if told.get("undeletable"):
        print("ERROR: it stays", file=sys.stderr)
        return 1
      made.remove(kind)
    elif is_slice and verb in ("describe", "list-instances"):
      states = told["life"]["states"]
      # The state is asked for by --format; without, whether it is there.
      asked = any(a.startswith("--format=value[") for a in arguments)
      state = states.pop(0) if asked and len(states) > 1 else states[0]
      listed = "--format=value(name)" in arguments
      print(
        "\n".join(x.split()[0] for x in state.split("\n")) if listed else state
      )
  return 0


def _host(arguments: list[str]) -> str:
  worker = [a for a in arguments if a.startswith("--worker=")]
  node = arguments[arguments.index("ssh") + 1] if "ssh" in arguments else ""
  if "scp" in arguments:
    node = next(a for a in arguments if a.endswith(":"))[:-1]
  return node + (f"-{worker[0][9:]}" if worker else "")


def _home(folder: pathlib.Path, arguments: list[str]) -> pathlib.Path:
  home = folder / "hosts" / _host(arguments)
  home.mkdir(parents=True, exist_ok=True)
  return home


def _scp(folder: pathlib.Path, arguments: list[str]) -> int:
  home = _home(folder, arguments)
  for word in arguments[arguments.index("scp") + 1 :]:
    if not word.startswith("--") and not word.endswith(":"):
      shutil.copy(word, home)
  return 0


def _ssh(folder: pathlib.Path, arguments: list[str]) -> int:
  command = next(a for a in arguments if a.startswith("--command="))[10:]
  with changed(folder) as told:
    runs = told["life"].get("runs")
    if runs is not None:
      if "worker.sh run" not in command:
        print(told.get("says", {}).get(_host(arguments), ""))
        return told["life"].get("setup", 0) if "setup" in command else 0
      run = runs[0]
      host = run["next"] = run.get("next", -1) + 1
      if host == len(run["codes"]) - 1:
        runs.pop(0)
        if "then" in run:
          told["life"]["states"] = [run["then"]]
      return run["codes"][host]
    added = told.get("environment", {}).get(_host(arguments), {})
  home = _home(folder, arguments)
  # As of a login: nothing of the launcher's environment but what is told.
  path = f"{folder}/host:{os.environ['PATH']}"
  environment = {"PATH": path, "FAKE": str(folder), "HOME": str(home)} | added
  done = subprocess.run(
    ["bash", "-c", command], cwd=home, env=environment, check=False
  )
  return done.returncode


if __name__ == "__main__":
  sys.exit(main(sys.argv[1], sys.argv[2:]))
