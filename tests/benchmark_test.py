"""`python -m sslx.benchmark input`: what it prints, never how fast it is."""

import importlib.util
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sslx.benchmark import backbone, compare, measure, peers
from sslx.config import ConfigError
from sslx.data import pipeline, sources
from sslx.data.sets import Arrays
from sslx.data.views import Crop, Patches
from tests import tiny

PACKAGES = ("torchvision", "lightly", "albumentations", "tensorflow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Twelve JPEGs of two classes, and a file that only says it is one."""
  root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
  for i in range(12):
    path = root / "train" / "ab"[i % 2] / f"{i}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((120 + i, 90), Image.BICUBIC)
    image.save(path, quality=90)
  (root / "train" / "b" / "damaged.jpg").write_bytes(b"no image")
  return root


def bench(*arguments):
  result = subprocess.run(
    [sys.executable, "-m", "sslx.benchmark", "input", *arguments],
    cwd=tiny.ROOT,
    env=tiny.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  return result.returncode, result.stdout, result.stderr


def numbers(pattern, text):
  found = re.search(pattern, text)
  assert found, f"{pattern!r} is not in:\n{text}"
  return [float(x.replace(",", "")) for x in found.groups()]


NUMBER = r"\s+([\d,.]+)"


@pytest.mark.slow
def test_files_stages_and_peers(folder):
  code, out, error = bench(
    "--config=configs/simclr.py:imagenet",
    "--config.data.source=folder",
    f"--config.data.data_dir={folder}",
    "--config.data.batch_size=4",
    "--config.data.max_bad=0.1",
    "--config.data.views.0.size=32",
    "--threads=1,2",
    "--images_per_second=1000",
    "--steps=2",
    "--rounds=2",
    "--peers",
  )
  assert code == 0, error
  assert "folder: 13 images, views 2 x crop 32" in out
  assert re.search("JPEG decoder: (native|simplejpeg)", out)
  for threads in (1, 2):
    (rate,) = numbers(rf"\n +{threads} threads?{NUMBER}", out)
    assert rate > 0
  share, cores = numbers(rf"1,000 images/s needs{NUMBER}, so (\d+) host", out)
  assert 0 < share <= cores < share + 1.1

  names = ("read", "headers", "boxes", "decode and cut")
  stages = [numbers(rf"\n  {name}{NUMBER}", out)[0] for name in names]
  total, rate = numbers(rf"all of these{NUMBER}{NUMBER} images/s", out)
  assert min(stages) > 0
  assert sum(stages) == pytest.approx(total, abs=0.3)
  assert rate == pytest.approx(1e6 / total, rel=0.01)
  for name in ("to the device", "on the device"):
    assert numbers(rf"{name}{NUMBER}", out)[0] > 0

  assert numbers(rf"sslx, uint8 views{NUMBER}", out)[0] > 0
  for package in PACKAGES:
    if importlib.util.find_spec(package) is None:
      assert f"not installed (pip install {package})" in out
    else:
      version = re.escape(peers.version(package))
      assert numbers(rf"ours{NUMBER} x, {version}", out)[0] > 0
  assert "ours leaves to the device: jitter, grey, blur, normalise" in out
  median, worst = numbers(rf"median{NUMBER} dB, worst{NUMBER} dB", out)
  assert median >= worst > 30


@pytest.mark.slow
def test_images_in_memory():
  code, out, error = bench(
    "--config=configs/simclr.py:quickstart",
    "--config.data.batch_size=64",
    "--config.data.views.0.size=16",
    "--images_per_second=1000",
    "--steps=1",
    "--rounds=1",
    "--peers",
  )
  assert code == 0, error
  for what in ("the loader, into device memory", "all views, on the device"):
    assert numbers(rf"{what}{NUMBER}", out)[0] > 0
  assert "1,000 images/s needs" in out
  assert numbers(rf"sslx with the device's part{NUMBER}", out)[0] > 0
  assert "gather, transfer, cut, jitter, grey, normalise" in out
  median, worst = numbers(rf"median{NUMBER} dB, worst{NUMBER} dB", out)
  assert median >= worst > 45


@pytest.mark.slow
def test_a_number_of_threads_below_one_is_refused():
  code, _, error = bench(
    "--config=configs/simclr.py:quickstart", "--threads=1,0"
  )
  assert code == 2
  assert "--threads" in error


def data(views):
  return pipeline.Data(
    source="shapes",
    batch_size=2,
    views=views,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
  )


def test_versions_of_modules_whose_distribution_has_another_name():
  assert peers.version("PIL") == peers.metadata.version("pillow")
  assert peers.version("yaml") == peers.metadata.version("pyyaml")
  assert peers.version("absent_module") is None


def test_peers_make_neither_patches_nor_linked_views():
  images = Arrays(np.zeros((4, 36, 36, 3), np.uint8), None, None)
  for views, told in (
    ((Patches(size=8, resize=36, crop=33),), "views.0 is of kind 'patches'"),
    ((Crop(8), Crop(4, link=0)), "views.1 is linked"),
  ):
    with pytest.raises(ConfigError, match=f"{told}, and none of the peers"):
      compare.compare(data(views), images, rounds=1)


def test_blur_on_the_device_is_a_peer_of_its_own_if_there_is_blur():
  bare = peers.peers(data((Crop(size=32),)))
  blurred = peers.peers(data((Crop(size=32, blur=0.5),)))
  assert {p.package for p in bare} == {p.package for p in blurred}
  assert len(blurred) == len(bare) + 1


def test_every_contender_has_its_turn_in_each_round():
  calls, ticks = [], itertools.count()
  work = {name: lambda turn, n=name: calls.append((n, turn)) for name in "ab"}
  clock = lambda: float(next(ticks))
  seconds = measure.in_turns(work, 2, clock=clock)
  rounds = [0, 0, 1]  # The first is not counted.
  assert calls == [(name, turn) for turn in rounds for name in "ab"]
  assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_short_call_is_repeated_for_a_while():
  calls, ticks = [], itertools.count()
  clock = lambda: float(next(ticks))
  measure.in_turns({"a": calls.append}, 1, clock=clock, least=3)
  assert calls == [0] * 2 * 3


def test_a_backbone_is_measured_alone(capsys):
  backbone.bench_backbone(tiny.vit_config("mae"), 1, 2, peers=False)
  first, line = capsys.readouterr().out.splitlines()
  assert first.startswith("ViT, images 16x16x16x3, cpu")
  assert numbers(r"sslx +([\d,.]+)  \(([\d,.]+) to ([\d,.]+)\)", line)


def resnet():
  return tiny.config(model__backbone__width=1.0)


def vit():
  return tiny.vit_config("mocov3")


@pytest.mark.parametrize(
  ("config", "package"), [(vit, "timm"), (resnet, "torchvision")]
)
def test_and_beside_pytorch(config, package, capsys):
  for name in ("torch", package):
    pytest.importorskip(name)
  backbone.bench_backbone(config(), 1, 1, peers=True)
  line = capsys.readouterr().out.splitlines()[-1]
  assert package in line and numbers(r"ours ([\d.]+) x", line)


@pytest.mark.parametrize(
  ("method", "message"),
  [
    ("relative_loc", "kind 'patches', which is several"),
    ("simclr", "PyTorch has no Convs"),
  ],
)
def test_what_pytorch_does_not_have(method, message, monkeypatch):
  monkeypatch.setattr(sources, "load", lambda *_: tiny.Pixels())
  with pytest.raises(ConfigError, match=message):
    backbone.bench_backbone(tiny.method_config(method), 1, 1, peers=True)


def test_without_pytorch_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ConfigError, match=r"pip install 'sslx\[torch\]'"):
    backbone.bench_backbone(tiny.config(), 1, 1, peers=True)
