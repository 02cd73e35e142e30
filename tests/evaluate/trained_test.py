"""Protocols that train: their configs, and the command as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from sslx import card, methods, settings
from sslx import config as config_lib
from sslx.config import ConfigError
from sslx.data import pipeline
from sslx.data.sources import Source
from sslx.evaluate import trained
from sslx.weights.run import Run
from tests import tiny

SHAPES = Source("shapes")


def network(config, step=48, network="student"):
  """A run without its weights, as the command opens it."""
  data = config_lib.build(pipeline.Data, config.data, "data")
  method = methods.build(config.model, methods.Plan(data.batch_size))
  return Run("/w", config, method, data, step, network, {}, {})


def config_of(name, run, source=SHAPES, overrides=()):
  protocol = trained.PROTOCOLS[name]
  source = trained.source_of(protocol, source)
  return trained.config_of(protocol, run, source, overrides)


def test_a_protocol_takes_the_network_and_the_images_of_the_run():
  run = tiny.config(model__backbone__stem="cifar")
  overrides = [("data.batch_size", "64")]
  made = config_of("linear-moco", network(run), overrides=overrides)
  assert made.model.method == "linear"
  assert made.model.backbone.to_dict() == run.model.backbone.to_dict()
  assert made.model.classifier.classes == 8
  assert (made.data.source, made.data.views[0]["size"]) == ("shapes", 16)
  assert made.data.centre.to_dict() == {
    "size": 16, "resize": 18, "interpolation": "bilinear",
  }  # fmt: skip
  assert made.data.mean == run.data.mean
  assert made.data.batch_size == 64
  assert made.schedule.optimizer.lr == 30.0
  init = made.runtime.init_from
  assert (init.path, init.step, init.parts) == ("/w", 48, ("backbone",))
  assert init.what == "student"
  # An untrained network starts from nothing.
  made = config_of("linear-moco", network(run, 0, "untrained"))
  assert made.runtime.init_from is None


def test_a_share_of_the_labels_is_a_slice_of_a_set_without_a_list():
  name, run = "semisup-swav-10pct", network(tiny.config())
  assert config_of(name, run).data.train == "train[:10%]"
  own = Source("shapes", train="train[100:200]")
  assert config_of(name, run, own).data.train == "train[100:200]"


def test_the_list_of_a_paper_is_a_set_of_its_own(tmp_path):
  run = network(tiny.config())
  source = Source("imagenet2012", str(tmp_path), False)
  with pytest.raises(ConfigError, match="source='imagenet2012_1percent'"):
    config_of("semisup-swav-1pct", run, source)


def test_the_page_names_every_protocol():
  page = (tiny.ROOT / "sslx/evaluate/README.md").read_text()
  assert all(f"`{name}`" in page for name in trained.PROTOCOLS)
  assert {x.version for x in trained.PROTOCOLS.values()} == {1}


def test_images_without_labels_are_refused(tmp_path):
  from tests.data import photos

  for i in range(3):
    path = tmp_path / "train" / f"{i}.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(photos.jpeg(photos.photo(16, 16, i)))
  with pytest.raises(ConfigError, match="it has no labels, which this prot"):
    source = Source("folder", str(tmp_path))
    config_of("linear-moco", network(tiny.config()), source)


def test_a_protocol_sets_how_a_backbone_is_trained_and_not_what_it_is():
  run = tiny.vit_config("mocov3", model__backbone__frozen_patches=True)
  made = config_of("linear-mocov3", network(run))
  assert made.model.backbone.width == 32
  assert made.model.backbone.weight_init == run.model.backbone.weight_init
  assert not made.model.backbone.frozen_patches
  settings.check(made)


def test_the_config_of_an_older_run_may_lack_keys_of_a_protocol():
  run = tiny.vit_config("mae")
  del run.model.backbone.pool_norm, run.data.exif
  made = config_of("ft-mae", network(run))
  backbone = made.model.backbone
  assert backbone.pool_norm and backbone.features == "pooled"
  assert made.data.exif and backbone.width == 32


FACTS = {
  "recipe": "r", "method": "m", "backbone": "b", "parameters": 1234,
  "data": {"source": "shapes", "images": 64}, "batch_size": 16,
  "length": "2 epochs", "total_steps": 8, "seed": 0, "config": "c",
  "command": "python -m x", "commit": None, "versions": {"jax": "1"},
  "hardware": "1 x cpu", "date": "today",
}  # fmt: skip
RESULT = {
  "protocol": "p", "version": 1, "data": "shapes", "changed": [], "step": 8,
  "config": "c", "command": "python -m y",
}  # fmt: skip


def test_the_card_sums_up_a_run_and_its_evaluations(tmp_path):
  workdir = epath.Path(tmp_path)
  rows = [
    {"step": 0, "eval/knn_20": 0.25},
    {"step": 4, "loss": 1.0, "images_per_second": 32.0},
    {"step": 8, "loss": 0.5, "images_per_second": 64.0},
    {"step": 8, "eval/knn_20": 0.75},
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "metrics.jsonl").write_text(lines)
  card.write(workdir, FACTS)
  found = card.read(workdir)
  assert (found["before"], found["after"]) == (
    {"knn_20": 0.25},
    {"knn_20": 0.75},
  )
  assert found["seconds"] == 4 * 16 / 32 + 4 * 16 / 64
  assert found["steps"] == 8 and found["evaluations"] == []

  trained_, untrained = {"top1": 0.9}, {"top1": 0.5}
  card.add(workdir, "a", RESULT | {"network": "student", "results": trained_})
  assert "before" not in card.read(workdir)["evaluations"][0]
  card.add(
    workdir, "b", RESULT | {"network": "untrained", "results": untrained}
  )
  # A changed protocol is another one: its result does not count as the base.
  changed = {"changed": ["schedule.epochs=1"], "network": "student"}
  card.add(workdir, "c", RESULT | changed | {"results": trained_})
  one, two = card.read(workdir)["evaluations"]
  assert (one["results"], one["before"]) == (trained_, untrained)
  assert "before" not in two
  page = (tmp_path / card.PAGE).read_text()
  assert "| knn_20 | 0.25 | 0.75 |" in page
  assert "| p v1 | shapes | 8 | student | top1 0.9 | top1 0.5 |" in page
  assert "p v1 with schedule.epochs=1 " in page and "not run" in page


def test_a_damaged_file_does_not_end_a_run(tmp_path):
  workdir = epath.Path(tmp_path)
  (tmp_path / "metrics.jsonl").write_text("")
  for file in ("card.json", "evaluations/a/result.json"):
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"version": 1, "pro')
  assert card.read(workdir) is None
  card.write(workdir, FACTS)
  assert card.read(workdir)["evaluations"] == []


def test_the_card_of_an_interrupted_run_has_no_first_evaluation(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 4, "eval/knn_20": 0.5}\n')
  card.write(epath.Path(tmp_path), FACTS)
  found = card.read(epath.Path(tmp_path))
  assert found["before"] == {} and found["after"] == {"knn_20": 0.5}
  assert "| knn_20 | not run | 0.5 |" in (tmp_path / card.PAGE).read_text()
  assert card.read(epath.Path(tmp_path / "none")) is None


RUN = [
  "--config=configs/simclr.py:quickstart",
  "--config.model.backbone.width=0.125",
  "--config.model.projector.dims=(16,8)",
  "--config.data.views.0.size=16",
  "--config.data.batch_size=1024",
  "--config.schedule.epochs=1",
  "--config.schedule.lr.warmup=0",
  "--config.runtime.evaluate.pixels=False",
  "--config.runtime.evaluate.knn.temperature=0.07",
]


def run(module, *arguments, cache, ok=True):
  done = subprocess.run(
    [sys.executable, "-m", module, *arguments],
    cwd=tiny.ROOT, env=tiny.environment(1, cache), capture_output=True,
    text=True,
  )  # fmt: skip
  assert (done.returncode == 0) == ok, done.stdout + done.stderr
  return done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_is_evaluated_and_its_card_says_so(tmp_path):
  cache, workdir = tmp_path / "cache", tmp_path / "w"
  run("sslx.main", f"--workdir={workdir}", *RUN, cache=cache)
  evaluate = lambda *arguments, **more: run(
    "sslx.evaluate", f"--workdir={workdir}", *arguments, cache=cache, **more
  )
  short = ["--config.schedule.epochs=2", "--config.data.batch_size=512"]
  linear = ["--protocol=linear-quick", *short]
  said = evaluate(*linear)
  assert "backbone: 100 of 100 tensors" in said
  assert "linear-quick v1 on shapes: top1" in said
  (folder,) = (workdir / "evaluations").iterdir()
  assert folder.name.startswith("linear-quick_shapes_4_")
  # Again: the run of the evaluation is there, and is not made again.
  rows = (folder / "metrics.jsonl").read_text()
  assert "resumed from step 16" in evaluate(*linear)
  assert (folder / "metrics.jsonl").read_text() == rows
  evaluate(*linear, "--untrained")
  evaluate("--protocol=semisup-quick-10pct", *short[:1])

  assert "knn-dino v1 on shapes: knn_10" in evaluate("--protocol=knn-dino")

  found = json.loads((workdir / "card.json").read_text())
  assert found["after"]["knn_20"] > 0 and found["seconds"] > 0
  assert "sslx.main" in found["command"]
  knn, one, two = found["evaluations"]
  assert knn["results"].keys() == {f"knn_{k}" for k in (10, 20, 100, 200)}
  # The same network and images as the run's last evaluation.
  assert knn["results"]["knn_100"] == found["after"]["knn_100"]
  assert one["changed"] == ["schedule.epochs=2", "data.batch_size=512"]
  assert one["before"].keys() == {"top1", "top5"} == one["results"].keys()
  assert two["protocol"] == "semisup-quick-10pct"
  assert two["data"] == "shapes (train[:10%])" and two["step"] == 4
  last = [json.loads(row) for row in rows.splitlines()][-1]
  assert one["results"]["top1"] == last["eval/top1"]
  assert np.isclose(one["results"]["top5"], last["eval/top5"])

  said = evaluate("--protocol=knn-dino", *short, ok=False)
  assert "schedule.epochs: this protocol has no config" in said
  said = evaluate("--protocol=linear-quik", ok=False)
  assert "error: --protocol=linear-quik: there is no such protocol" in said
  assert "Did you mean 'linear-quick'" in said and "Traceback" not in said
  said = evaluate("--protocol=linear-dino", ok=False)
  assert "features=('cls4',): this backbone has no class tokens" in said
