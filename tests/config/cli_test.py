"""`python -m sslx.config`, as a user runs it."""

import json
import os
import re
import subprocess
import sys

import pytest

from sslx import config as config_lib
from sslx import settings
from sslx.config import __main__ as cli
from tests import tiny
from tests.config_files import write

SELFSUP = "configs/selfsup"
SIMCLR = f"{SELFSUP}/simclr_resnet50_8xb32-coslr-200e_in1k.py"


@pytest.fixture(autouse=True)
def root(monkeypatch):
  monkeypatch.chdir(tiny.ROOT)


@pytest.mark.parametrize("style", ["json", "yaml", "python"])
def test_print_is_a_config_to_load(style, capsys, tmp_path):
  flags = ["--config.schedule.epochs=7", "--config.data.views.0.size=96"]
  spec = "configs/simclr.py:imagenet"
  assert cli.main(["print", flags[0], spec, f"--format={style}", flags[1]]) == 0
  file = tmp_path / f"dump.{style.replace('python', 'py')}"
  file.write_text(capsys.readouterr().out)
  overrides = [("schedule.epochs", "7"), ("data.views.0.size", "96")]
  expected = settings.load(spec, overrides)
  assert config_lib.to_json(settings.load(str(file))) == config_lib.to_json(
    expected
  )


def test_print_provenance_names_file_flag_reference_and_default(
  capsys, tmp_path
):
  base = f"{tiny.ROOT}/{SIMCLR}"
  child = write(
    tmp_path,
    "child.py",
    f"inherit({base!r}, schedule={{'epochs': ref('data.batch_size') * 2}})",
  )
  flag = "--config.data.batch_size=5"
  assert cli.main(["print", child, "--provenance", flag]) == 0
  lines = [" ".join(x.split()) for x in capsys.readouterr().out.splitlines()]
  assert (
    f"schedule.epochs = 10 # {child}: (ref('data.batch_size') * 2)" in lines
  )
  assert f"data.batch_size = 5 # {flag}" in lines
  assert "runtime.seed = 0 # configs/_base_/default_runtime.py" in lines
  assert "runtime.log_every = 50 # its default" in lines


def test_diff(capsys):
  other = SIMCLR.replace("8xb32", "16xb256")
  assert cli.main(["diff", SIMCLR, other]) == 1
  assert capsys.readouterr().out == "config.data.batch_size: 256 -> 4096\n"
  assert cli.main(["diff", SIMCLR, "configs/simclr.py:imagenet"]) == 0
  assert capsys.readouterr().out == ""


def test_lint(capsys, tmp_path):
  assert cli.main(["lint"]) == 0
  assert ", 0 errors" in capsys.readouterr().out
  lie = write(tmp_path, "simclr.py", f"inherit('{tiny.ROOT}/{SIMCLR}')")
  assert cli.main(["lint", SIMCLR, lie]) == 1
  out = capsys.readouterr().out
  assert f"{lie}: the name" in out
  assert "2 files, 1 errors" in out


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("data={'threads': 0}", "config.data.threads is 0; it must be positive"),
    (
      "model={'method': 'simclrr'}",
      "config.model.method is 'simclrr'; it must",
    ),
    ("model={'dtype': 'bf16'}", "config.model.dtype is 'bf16' (str); it must"),
    ("model={'norm_groups': 0}", "config.model.norm_groups is 0; it must be 1"),
    ("runtime={'seed': -1}", "config.runtime.seed is -1; it must be from 0 to"),
    (
      "schedule={'epochs': 99999999999}",
      "config.schedule.epochs is 99999999999",
    ),
    ("model={'backbone': {'depth': 19}}", "config.model.backbone.depth is 19"),
    ("data={'tread': 1}", "config.data.tread does not exist"),
  ],
)
def test_lint_and_print_refuse_what_a_run_refuses(
  change, message, capsys, tmp_path
):
  """The message names the file, or the flag, that set the value."""
  child = write(
    tmp_path, "child.py", f"inherit('{tiny.ROOT}/{SIMCLR}', {change})"
  )
  assert cli.main(["lint", child]) == 1
  assert message in (told := capsys.readouterr().out)
  assert f"It is set by {child}." in told
  with pytest.raises(config_lib.ConfigError, match=re.escape(message)):
    cli.main(["print", child])


def test_lint_takes_flags(capsys):
  assert cli.main(["lint", SIMCLR, "--config.data.threads=0"]) == 1
  told = capsys.readouterr().out
  assert "It is set by --config.data.threads=0." in told


def test_tree(capsys):
  name = SIMCLR.replace("8xb32-coslr-200e", "16xb256-coslr-800e")
  assert cli.main(["tree", name]) == 0
  assert capsys.readouterr().out.splitlines()[:4] == [
    name,
    "  " + SIMCLR.replace("8xb32", "16xb256"),
    "    " + SIMCLR,
    "      configs/_base_/models/simclr_resnet50.py",
  ]
  assert cli.main(["tree"]) == 0
  assert "configs/simclr.py\n" in capsys.readouterr().out


def run(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "sslx.config", *arguments],
    cwd=tiny.ROOT,
    env=os.environ,
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_module_runs_and_errors_are_one_line():
  result = run("print", "configs/simclr.py", "--format=json")
  assert result.returncode == 0, result.stderr
  assert json.loads(result.stdout)["model"]["method"] == "simclr"
  result = run("print", "configs/simclr.py", "--config.data.sourse=x")
  assert result.returncode == 1
  assert result.stderr.count("\n") == 1
  assert "error: config.data.sourse does not exist. Did you" in result.stderr
  result = run("diff", "configs/simclr.py")
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  assert "go with print, diff and lint" in run("tree", "--config.a=1").stderr


def test_without_configs_those_that_come_with_sslx_are_meant(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.chdir(tmp_path)
  assert cli.main(["lint"]) == 0
  configs = tiny.ROOT / "configs"
  there = [x for kind in ("", "selfsup", "benchmarks")
           for x in (configs / kind).glob("*.py")]  # fmt: skip
  assert f"{len(there)} files, 0 errors" in capsys.readouterr().out


def test_a_reader_may_leave_early():
  command = f"{sys.executable} -m sslx.config print configs/mae.py | head -n 1"
  done = subprocess.run(
    ["bash", "-c", command], capture_output=True, text=True, check=False
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == "model:\n"
