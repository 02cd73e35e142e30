"""The scripts of configs/benchmarks name runs that can start."""

import os
import subprocess

import pytest

from sslx import config as config_lib
from sslx import settings
from sslx.evaluate import frozen, trained
from tests import tiny

FOLDER = tiny.ROOT / "configs/benchmarks"
RECORDER = """#!/usr/bin/env bash
printf '%s\\0' "$@" end >>"$RECORD"
"""


@pytest.mark.parametrize(
  "path", sorted(FOLDER.glob("*.sh")), ids=lambda p: p.stem
)
def test_every_flag_of_a_script_is_known(path, tmp_path):
  """In place of Python, the script starts a recorder."""
  recorder, record = tmp_path / "python", tmp_path / "record"
  recorder.write_text(RECORDER)
  recorder.chmod(0o755)
  for run in ("simclr", "mae"):  # A script prints their cards at its end.
    (tmp_path / "out" / run).mkdir(parents=True)
    (tmp_path / "out" / run / "CARD.md").touch()
  subprocess.run(
    ["bash", path, tmp_path / "out"],
    cwd=tiny.ROOT,
    env=os.environ | {"PYTHON": str(recorder), "RECORD": str(record)},
    check=True,
    capture_output=True,
  )
  commands = [
    text.removesuffix("\0").split("\0")
    for text in record.read_text().split("\0end\0")
    if text
  ]
  found = 0
  for command in commands:
    overrides, rest = config_lib.split_overrides(command)
    flags = dict(
      flag.removeprefix("--").split("=", 1) for flag in rest if "=" in flag
    )
    if "sslx.main" in rest:
      settings.load(flags["config"], overrides)
      found += 1
    elif "sslx.evaluate" in rest:
      protocol = flags["protocol"]
      if protocol in frozen.PROTOCOLS:
        assert not overrides
      else:
        settings.load(trained.PROTOCOLS[protocol].spec, overrides)
  assert found > 2
