"""The package as it is installed: without this checkout, in an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile

import pytest

from tests import tiny

# What a checkout has and neither a wheel nor a source distribution needs.
IGNORED = shutil.ignore_patterns(
  ".*", "__pycache__", "build", "*.egg-info", "*.so", "work_dirs"
)
OWN = """
from sslx.config import inherit

def get_config():
  return inherit(
    "sslx:selfsup/simclr_resnet18-w25_1xb256-coslr-24e_shapes.py",
    schedule={"epochs": 3},
  )
"""


def build(source, into):
  """Builds and installs a source tree; returns the folder to import from."""
  pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
  quiet = {"check": True, "stdout": subprocess.DEVNULL}
  wheels = into / "wheels"
  subprocess.run(
    [
      *(*pip, "wheel", "--no-deps", "--no-build-isolation"),
      *(f"--wheel-dir={wheels}", str(source)),
    ],
    **quiet,
  )
  (wheel,) = wheels.glob("*.whl")
  site = into / "site"
  subprocess.run(
    [*pip, "install", "--no-deps", f"--target={site}", str(wheel)], **quiet
  )
  return site


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request, tmp_path_factory):
  """Runs a module of an installed sslx, in a folder."""
  folder = tmp_path_factory.mktemp(request.param)
  source = folder / "source"
  shutil.copytree(tiny.ROOT, source, ignore=IGNORED)
  if request.param == "sdist":
    command = [sys.executable, "setup.py", "--quiet", "sdist"]
    subprocess.run(
      command, cwd=source, check=True, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )  # fmt: skip
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
      tar.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
  site = build(source, folder)

  def run(cwd, module, *arguments):
    return subprocess.run(
      [sys.executable, "-m", module, *map(str, arguments)],
      cwd=cwd,
      env=os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
      check=False,
    )

  return run


@pytest.mark.slow
def test_recipes_come_with_the_package(installed, tmp_path):
  done = installed(tmp_path, "sslx.config", "lint")
  assert done.returncode == 0, done.stdout + done.stderr
  there = (tiny.ROOT / "configs").rglob("*.py")
  count = sum("_base_" not in path.parts for path in there)
  assert f"{count} files, 0 errors" in done.stdout
  done = installed(tmp_path, "sslx.config", "tree", "configs/mae.py")
  assert done.returncode == 0, done.stderr
  assert "site/sslx/configs/selfsup/mae_" in done.stdout
  file = tiny.ROOT / "tests/migrate/mmselfsup/simclr_8xb32.py"
  done = installed(tmp_path, "sslx.config", "migrate", file)
  assert done.returncode == 0, done.stderr
  assert "simclr_resnet50_8xb32-coslr-200e_in1k.py" in done.stdout


@pytest.mark.slow
def test_a_config_of_ones_own(installed, tmp_path):
  """By inheritance from a shipped recipe, or from a copy of one."""
  (tmp_path / "mine.py").write_text(OWN)
  done = installed(tmp_path, "sslx.config", "print", "mine.py")
  assert done.returncode == 0, done.stderr
  assert "epochs: 3\n" in done.stdout
  done = installed(tmp_path, "sslx.config", "copy", "mae")
  assert done.stdout == "Edit it and use it: --config=configs/mae.py\n"
  again = installed(tmp_path, "sslx.config", "copy", "mae")
  assert "configs/mae.py exists" in again.stderr
  copied = tmp_path / "configs/mae.py"
  copied.write_text(copied.read_text().replace("MAE", "My MAE"))
  # The file that is there comes before the shipped one.
  mine = installed(
    tmp_path, "sslx.config", "print", "configs/mae.py:quickstart"
  )
  shipped = installed(
    tmp_path, "sslx.config", "print", "sslx:mae.py:quickstart"
  )
  assert mine.returncode == 0, mine.stderr
  assert mine.stdout == shipped.stdout
  done = installed(tmp_path, "sslx.config", "copy", "mea")
  assert "no recipe 'mea'. Did you mean 'mae'" in done.stderr


@pytest.mark.slow
def test_the_quickstart_runs(installed, tmp_path):
  done = installed(
    tmp_path,
    "sslx.main",
    "--config=configs/simclr.py:quickstart",
    "--workdir=run",
    "--config.model.backbone.width=0.125",
    "--config.data.train=train[:64]",
    "--config.data.test=test[:64]",
    "--config.data.batch_size=32",
    "--config.schedule.epochs=1",
    "--config.schedule.lr.warmup=0",
    "--config.runtime.evaluate.knn.k=(5,)",
    "--config.runtime.evaluate.pixels=False",
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "finished: 2 steps" in done.stdout + done.stderr
