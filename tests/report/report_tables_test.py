"""Tables of runs, schedules and networks, against formulas written out."""

import csv
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from sslx.benchmark import work
from sslx.config import ConfigError
from sslx.report import __main__ as command
from sslx.report import (
  compare,
  curves,
  model,
  page,
  planned,
  schedule,
  tables,
  workdirs,
)
from sslx.report import run as page_of_run
from tests import tiny
from tests.weights import runs

ROOT = tiny.ROOT


def test_runs_side_by_side(tmp_path, capsys):
  for name, scale in (("a|b", 0.1), ("c", 0.2)):
    folder = tmp_path / name
    runs.save(folder, tiny.config(model__temperature=scale))
  rows = [
    {"step": 0, "eval/knn_20": 0.1},
    {"step": 2, "epoch": 1.0, "images_per_second": 4.0},
    {"step": 2, "eval/knn_20": 0.75, "eval/effective_rank": 3.5},
    {"step": 4, "epoch": 2.0, "images_per_second": 4.0},
    {"step": 4, "eval/knn_20": 0.5, "eval/probe_test_accuracy": 0.25},
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "a|b" / "metrics.jsonl").write_text(lines)
  card = {"seconds": 7200, "evaluations": [{"results": {"top_1": 0.9},
          "protocol": "linear", "data": "pets"}]}  # fmt: skip
  (tmp_path / "c" / "card.json").write_text(json.dumps(card))
  paths = [str(tmp_path / name) for name in ("a|b", "c")]

  out = tmp_path / "t.csv"
  command.main(["compare", *paths, f"--out={out}"])
  one, two = csv.DictReader(io.StringIO(out.read_text()))
  assert one["run"] == "a|b" and two["run"] == "c"
  numbers = {"kNN": 0.5, "kNN (best)": 0.75, "kNN (untrained)": 0.1, "step": 4,
             "probe": 0.25, "effective rank": 3.5, "images/s": 4,
             "hours": 4 * tiny.BATCH / 4 / 3600}  # fmt: skip
  for key, value in numbers.items():
    assert float(one[key]) == pytest.approx(value), key
  assert one["of"] == "2"  # 1 epoch of 2 steps
  assert float(two["hours"]) == 2
  assert float(two["linear top_1 (pets)"]) == 0.9
  assert one["config"] != two["config"]
  printed = capsys.readouterr().out
  assert "config.model.temperature  0.1  0.2" in printed

  found = compare.tables(workdirs.read(paths))
  assert "| a\\|b |" in tables.markdown(found)
  assert "<td>a|b</td>" in page.of_tables("Runs", found)
  assert "config.model.temperature" in page.of_tables("Runs", found)
  assert len(compare.tables(workdirs.read(paths[:1]))) == 1
  with pytest.raises(ConfigError, match="no .*config.json"):
    command.main(["compare", str(tmp_path)])
  with pytest.raises(ConfigError, match=r"\.md or \.html or \.csv"):
    command.main(["compare", paths[0], "--out=t.txt"])


def test_an_evaluation_that_trains_has_no_neighbours(tmp_path):
  """Its config has no kNN; it reports the accuracy of its classifiers."""
  runs.save(tmp_path / "w", tiny.config(runtime__evaluate__knn=None))
  rows = [{"step": 0, "eval/top1": 0.1}, {"step": 4, "eval/top1": 0.5}]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "w" / "metrics.jsonl").write_text(lines)
  (run,) = workdirs.read([str(tmp_path / "w")])
  assert run.knn_key is None and run.pixels_key is None
  assert ("50.0 %", "top-1 accuracy, test") in page_of_run.tiles(run)
  (chart,) = (x for x in curves.of_runs([run]) if x.title == "Top-1 accuracy")
  assert chart.traces[0]["y"] == [0.1, 0.5]
  table = compare.tables([run])[0]
  assert dict(zip(table.head, table.rows[0], strict=True))["top-1"] == 0.5


def test_schedules_are_those_of_the_run(tmp_path, capsys):
  """MoCo v3 in 20 steps: a warm-up, half a cosine, rules, and a teacher."""
  rules = (
    ("^projector/", {"lr": 0.5, "weight_decay": 2.0, "freeze": {"steps": 6}}),
  )
  changes = {"schedule__optimizer__rules": rules, "schedule__epochs": 5}
  config = tiny.vit_config(
    "mocov3",
    **changes,
    model__momentum={"kind": "cosine", "start": 0.99, "final": 1.0},
    schedule__lr__warmup=1.0,
    schedule__optimizer__lr=0.3,
    schedule__optimizer__lr_scaling="none",
    schedule__optimizer__weight_decay=0.1,
    schedule__optimizer__exclude_1d=True,
  )
  experiment = planned.build(config, 4 * tiny.BATCH)
  found = schedule.curves(experiment)
  t = np.arange(20)
  rate = np.where(
    t < 4, t / 4, 0.5 * (1 + np.cos(np.pi * (t - 4) / (20 - 4)))
  )  # fmt: skip
  late = t >= 6
  expected = {
    "learning rate": [0.3 * rate, 0.0 * rate, 0.15 * rate * late],
    "weight decay": [0.1 + 0 * t, 0.0 * t, 0.2 * late, 0.0 * t],
    # Of the step that follows, as in the official code.
    "teacher momentum": [1 - 0.005 * (1 + np.cos(np.pi * (t + 1) / 20))],
  }
  for group, wanted in expected.items():
    mine = [x.at(t) for x in found if x.group == group]
    for curve in wanted:
      errors = [np.abs(x - curve).max() for x in mine]
      assert min(errors) < 1e-6, group
    for x in mine:
      assert min(np.abs(x - curve).max() for curve in wanted) < 1e-6, group
  steps = schedule.sampled(found, experiment.step.method.plan)
  assert steps.tolist() == t.tolist()

  spec = f"{ROOT}/configs/swav.py:imagenet"
  for suffix in ("html", "png"):
    out = tmp_path / f"s.{suffix}"
    command.main(["schedule", f"--config={spec}", f"--out={out}"])
  with Image.open(out) as picture:
    assert picture.format == "PNG"
  assert "Plotly" in (tmp_path / "s.html").read_text()
  printed = capsys.readouterr().out
  assert "Frozen for the first 5,005 steps" in printed
  assert "learning rate: prototypes" in printed
  gone = ["--config.data.source=folder", "--config.data.data_dir=/gone"]
  with pytest.raises(ConfigError, match=r"/gone.*--images=N"):
    command.main(["schedule", f"--config={spec}", *gone])
  with pytest.raises(ConfigError, match="--images=3"):
    command.main(["schedule", f"--config={spec}", "--images=3"])


@pytest.mark.slow
def test_a_network_by_module(tmp_path, capsys):
  """A ViT's block as on paper: 12 d^2 weights, and attention of t tokens."""
  config = tiny.vit_config("mocov3")
  experiment = planned.build(config, 64)
  by_module, totals = model.tables(experiment)
  rows = {row[0]: row[1:] for row in by_module.rows}
  d, t, views = 32, 17, 2
  role, parameters, flops, _ = rows["backbone/blocks_1"]
  assert role == "trained"
  assert parameters == 12 * d**2 + 13 * d
  assert flops * 1e9 == pytest.approx(
    views * t * (2 * 12 * d**2 + 2 * 2 * t * d)
  )
  assert rows["teacher/backbone/blocks_1"][0] == "teacher"
  assert rows["teacher/backbone/blocks_1"][1:3] == (parameters, flops)
  assert rows["teacher/backbone/blocks_1"][3] == 0  # It has no gradient.
  assert rows["backbone/patch_embed"][0] == "frozen"

  total = dict(totals.rows)
  params = experiment.abstract_state.params
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  embed = count(params["backbone"]["patch_embed"])
  assert total["frozen parameters"] == embed
  assert total["trained parameters"] == count(params) - embed
  assert total["teacher parameters"] == count(
    {k: params[k] for k in ("backbone", "projector")}
  )
  # What `jax.vjp` keeps, but for the parameters.
  loss, trees, batch = work.abstract_loss(experiment, experiment.step.method)
  pullback = jax.eval_shape(
    lambda p, s, a, b: jax.vjp(lambda q: loss(q, s, a, b), p)[1], *trees, batch
  )
  kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))
  bound = kept / tiny.BATCH / 2**20
  least = (kept - 4 * count(trees)) / tiny.BATCH / 2**20
  found = total["activations per image (MiB)"]
  assert least <= found <= bound

  rough, _ = model.tables(experiment, depth=1)
  assert [row[0] for row in rough.rows[:3]] == [
    "backbone", "predictor", "projector",
  ]  # fmt: skip
  assert sum(row[3] for row in rough.rows) == pytest.approx(
    total["forward GFLOP per image"]
  )
  out = tmp_path / "m.json"
  spec = f"{ROOT}/configs/simclr.py:quickstart"
  command.main(["model", f"--config={spec}", "--images=512", f"--out={out}"])
  assert "SimCLR in total" in capsys.readouterr().out
  written = json.loads(out.read_text())["SimCLR by module"]
  (conv,) = [x for x in written if x["module"] == "backbone/conv1"]
  assert conv["parameters"] == 7 * 7 * 3 * 16


@pytest.mark.slow
def test_the_command_draws_views(tmp_path, capsys):
  out = tmp_path / "views.png"
  spec = f"{ROOT}/configs/simclr.py:quickstart"
  command.main(["views", f"--config={spec}", "--images=2", f"--out={out}",
                "--config.data.train=train[:512]"])  # fmt: skip
  with Image.open(out) as picture:
    assert picture.format == "PNG" and picture.width > 500
  for wrong in (["views", f"--config={spec}", "--images=0"],
                ["compare", "w", "--config.a=1"], []):  # fmt: skip
    with pytest.raises(SystemExit):
      command.main(wrong)
