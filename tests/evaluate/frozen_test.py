"""Protocols over frozen features against scikit-learn and formulas."""

import dataclasses
import functools
import json
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import linear_model, model_selection, neighbors
from sklearn.svm import LinearSVC

from sslx.config import ConfigError
from sslx.data import files
from sslx.data.sets import Arrays
from sslx.evaluate import svm
from sslx.evaluate.frozen import PROTOCOLS, Frozen, evaluate
from sslx.evaluate.label_free import LabelFree
from sslx.evaluate.logreg import LogisticRegression
from sslx.evaluate.svm import SVM, LowShot
from sslx.features.extract import extract
from sslx.weights.run import open_run
from tests import tiny
from tests.weights import runs

CLASSES, SIDE = 4, 16


def pictures(n, seed, classes=CLASSES):
  """Noise around the pattern of a class: neighbours often disagree."""
  rng = np.random.default_rng(seed)
  patterns = np.random.default_rng(9).uniform(60, 200, (classes, 4, 4, 3))
  labels = rng.integers(0, classes, n).astype(np.int32)
  pixels = patterns[labels].repeat(4, 1).repeat(4, 2)
  pixels = pixels + rng.normal(0, 90, (n, SIDE, SIDE, 3))
  return Arrays(np.clip(pixels, 0, 255).astype(np.uint8), labels, classes)


TRAIN, TEST = pictures(150, 1), pictures(46, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("vit")
  runs.save(workdir, tiny.vit_config("mocov3"))
  return open_run(workdir)


@pytest.fixture(scope="module")
def exported(run):
  """Features by name and labels of both sets, as `sslx.features` has them."""
  tables = [extract(run, x, ("cls", "pooled")) for x in (TRAIN, TEST)]
  return [
    ({k: v.astype(np.float64) for k, v in table.features.items()}, table.labels)
    for table in tables
  ]


def measured(run, protocol, said=None, **settings):
  if isinstance(protocol, str):
    protocol = PROTOCOLS[protocol]
  note = pytest.fail if said is None else said.append
  return evaluate(run, protocol, TRAIN, TEST, note=note, **settings)


def with_measure(name, measure):
  return dataclasses.replace(PROTOCOLS[name], measure=measure)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def vote(bank, labels, queries, k, temperature):
  """DINO's: each of the k nearest adds exp(cosine / T) to its class."""
  cosine = unit(queries) @ unit(bank).T
  nearest = np.argsort(-cosine, axis=1)[:, :k]
  weight = np.exp(np.take_along_axis(cosine, nearest, 1) / temperature)
  one_hot = labels[nearest][..., None] == np.arange(CLASSES)
  return np.argmax((weight[..., None] * one_hot).sum(axis=1), axis=1)


def classifier(bank, labels, queries, k, temperature):
  """Of unit vectors |a - b|^2 = 2 - 2 cos(a, b)."""
  found = neighbors.KNeighborsClassifier(
    k,
    weights=lambda distance: np.exp((1 - distance**2 / 2) / temperature),
    algorithm="brute",
  )
  return found.fit(unit(bank), labels).predict(unit(queries))


@pytest.mark.parametrize(
  ("name", "features", "k", "temperature"),
  [
    ("knn-dino", "cls", (10, 20, 100, 150), 0.07),
    ("knn-mmselfsup", "pooled", (10, 20, 100, 150), 0.07),
  ],
)
def test_knn_equals_scikit_learn_and_the_formula(
  run, exported, name, features, k, temperature
):
  """Of 46 test images, for which the code of the sources fails."""
  (bank, labels), (queries, answers) = exported
  said = []
  found = measured(run, name, said, devices=jax.devices()[:2])
  (note,) = said
  assert "(10, 20, 100, 200) is lowered to (10, 20, 100, 150)" in note
  assert "only 150 images to be neighbours" in note
  arguments = bank[features], labels, queries[features]
  for written_out in (vote, classifier):
    assert found == {
      f"knn_{n}": np.mean(written_out(*arguments, n, temperature) == answers)
      for n in k
    }
  assert len(set(found.values())) > 1 and 0.3 < found["knn_10"] < 1
  # On one device, and in batches that do not divide the sets.
  assert found == measured(
    run, name, [], devices=jax.devices()[:1], batch_size=32
  )


def test_moco_s_notebook_takes_the_output_of_the_head(run):
  found = measured(run, "knn-moco-cifar", [])
  (head,) = (extract(run, x, ("projector",)) for x in (TRAIN,))
  queries = extract(run, TEST, ("projector",))
  bank = head.features["projector"].astype(np.float64)
  answers = vote(bank, head.labels, queries.features["projector"], 150, 0.1)
  assert found == {"knn_150": np.mean(answers == queries.labels)}


def interpolated(scores, positive):
  """VOC 2010: at each new recall, the best precision from there on."""
  order = np.argsort(-scores)
  hit = np.cumsum(positive[order])
  precision = hit / np.arange(1, len(order) + 1)
  recall = hit / hit[-1]
  total, last = 0.0, 0.0
  for i in range(len(order)):
    total += (recall[i] - last) * max(precision[i:])
    last = recall[i]
  return total


def reference_svm(cost):
  return LinearSVC(
    C=cost, class_weight={1: 2, -1: 1}, tol=1e-4, max_iter=2000, dual=True,
    penalty="l2", loss="squared_hinge", random_state=0,
  )  # fmt: skip


def svm_sets(exported):
  (bank, labels), (queries, answers) = exported
  scaled = lambda x: x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)
  return scaled(bank["pooled"]), labels, scaled(queries["pooled"]), answers


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_svm_equals_scikit_learn(run, exported):
  bank, labels, queries, answers = svm_sets(exported)
  costs = (0.01, 1.0, 30.0)
  scores = []
  for c in range(CLASSES):
    signs = np.where(labels == c, 1, -1)
    cross = [
      model_selection.cross_val_score(
        reference_svm(cost), bank, signs, cv=3, scoring="average_precision"
      ).mean()
      for cost in costs
    ]
    best = reference_svm(costs[int(np.argmax(cross))]).fit(bank, signs)
    scores.append(best.decision_function(queries))
  expected = {
    "map": np.mean(
      [interpolated(x, answers == c) for c, x in enumerate(scores)]
    ),
    "top1": np.mean(np.argmax(scores, axis=0) == answers),
  }
  protocol = with_measure("svm-mmselfsup", SVM(costs=costs))
  found = measured(run, protocol, [])
  # The features differ in rounding: batches of 512 and of another size.
  assert found == pytest.approx(expected, abs=2e-3)
  assert len(svm.COSTS) == 19 and svm.COSTS[2:4] == (100.0, 1 / 16)


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_low_shot_svm_equals_scikit_learn(run, exported):
  bank, labels, queries, answers = svm_sets(exported)
  costs, samples, said = (0.1, 10.0), 2, []
  protocol = with_measure(
    "svm-lowshot", LowShot(k=(2, 8, 96), samples=samples, costs=costs)
  )
  found = measured(run, protocol, said)
  fewest = np.bincount(labels).min()
  assert f"k=(2, 8, 96) is cut to (2, 8): a class has only {fewest}" in said[0]
  assert set(found) == {"map_k2", "map_k2_std", "map_k8", "map_k8_std"}
  drawn = [svm.shuffled(labels, seed) for seed in range(samples)]
  assert [len(x) for x in drawn[0]] == np.bincount(labels).tolist()
  assert all((labels[x] == c).all() for c, x in enumerate(drawn[1]))
  for k in (2, 8):
    ap = np.zeros((samples, len(costs)))
    for s in range(samples):
      rows = np.concatenate([x[:k] for x in drawn[s]])
      for i, cost in enumerate(costs):
        each = []
        for c in range(CLASSES):
          signs = np.where(labels[rows] == c, 1, -1)
          fitted = reference_svm(cost).fit(bank[rows], signs)
          scores = fitted.decision_function(queries)
          each.append(interpolated(scores, answers == c))
        ap[s, i] = np.mean(each)
    best = np.argmax(ap.mean(axis=0))
    assert found[f"map_k{k}"] == pytest.approx(ap[:, best].mean(), abs=2e-3)
    assert found[f"map_k{k}_std"] == pytest.approx(ap[:, best].std(), abs=2e-3)


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_fits_beside_each_other_do_not_share_random_numbers():
  rng = np.random.default_rng(0)
  x, labels = rng.normal(size=(400, 32)), rng.integers(0, 4, 400)
  tasks = [
    (x, np.where(labels == c, 1, -1), cost)
    for c in range(4)
    for cost in (1, 30)
  ]
  with svm._workers() as starmap:
    found = starmap(svm._fit, tasks)
  for machine, (_, signs, cost) in zip(found, tasks, strict=True):
    alone = reference_svm(cost).fit(x, signs)  # Stopped before it converges.
    np.testing.assert_array_equal(machine.coef_, alone.coef_)


def test_svm_says_that_it_did_not_converge(run):
  said = []
  measured(run, with_measure("svm-mmselfsup", SVM(costs=(1e6,))), said)
  assert "did not converge in 2000 iterations" in said[0]


def test_logistic_regression_equals_scikit_learn(run, exported):
  (bank, labels), (queries, answers) = exported
  bank, queries = bank["cls"], queries["cls"]
  grid, said = (1e-6, 1e-3, 1e-1, 10.0), []
  fit = lambda c, x, y: linear_model.LogisticRegression(C=c, max_iter=1000).fit(
    x, y
  )
  kept, held, kept_labels, held_labels = model_selection.train_test_split(
    bank, labels, test_size=0.1, stratify=labels, random_state=0
  )
  scores = [fit(c, kept, kept_labels).score(held, held_labels) for c in grid]
  best = grid[int(np.argmax(scores))]
  expected = fit(best, bank, labels).score(queries, answers)
  protocol = with_measure("logreg-dinov2", LogisticRegression(grid))
  assert measured(run, protocol) == {"top1": expected, "C": best}
  assert 0.3 < expected < 1
  late = LogisticRegression(grid, max_iter=2)
  measured(run, with_measure("logreg-dinov2", late), said)
  assert "fits of the logistic regression did not converge in 2" in said[0]
  wanted = [10 ** (-6 + 11 * i / 44) for i in range(45)]
  np.testing.assert_allclose(LogisticRegression().grid, wanted, rtol=1e-12)


@functools.cache
def one_colour(n):
  """Images of one colour each, of which all crops are the same."""
  colours = np.random.default_rng(4).integers(0, 256, (n, 1, 1, 3))
  return np.broadcast_to(colours, (n, SIDE, SIDE, 3)).astype(np.uint8)


@pytest.mark.parametrize("stored", ["in memory", "in files"])
def test_label_free_measures_views_of_the_run_s_own_kind(tmp_path, stored):
  if stored == "in files":
    for i, pixels in enumerate(one_colour(40)):
      (tmp_path / "images").mkdir(exist_ok=True)
      Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02}.png")
    images = files.open_files(str(tmp_path), "images", "train")
  else:
    images = Arrays(one_colour(40), None, None)
  runs.save(tmp_path / "run", tiny.vit_config("mae"))
  run = open_run(tmp_path / "run")
  protocol = with_measure("label-free", LabelFree(16, classes=40, views=3))
  found = evaluate(
    run, protocol, images, None, batch_size=16, devices=jax.devices()[:2]
  )
  # Three parts of 40 images: 12 on two devices each.
  assert found["alignment"] == pytest.approx(0, abs=1e-4)
  every = extract(run, images).features["final"].astype(np.float64)
  x = unit(every)
  potential = np.exp(-2 * ((x[:, None] - x) ** 2).sum(-1))
  whole = np.log(potential[~np.eye(40, dtype=bool)].mean())
  assert found["uniformity"] == pytest.approx(whole, abs=0.3)
  assert 1 < found["rankme"] < 16
  # No view differs, so that every direction of the means counts as signal.
  means = np.linalg.eigvalsh(np.cov(every.T))
  share = means[means > 0] / means[means > 0].sum()
  rank = np.exp(-np.sum(share * np.log(share)))
  assert found["lidar"] == pytest.approx(rank, rel=0.15)


def test_label_free_needs_no_labels_and_sees_the_augmentation(run):
  protocol = with_measure("label-free", LabelFree(150, classes=150, views=4))
  images = dataclasses.replace(TRAIN, labels=None, num_classes=None)
  found = evaluate(run, protocol, images, None, note=pytest.fail)
  table = extract(run, TRAIN).features["final"].astype(np.float64)
  share = np.linalg.svd(table, compute_uv=False)
  share /= share.sum()
  rank = np.exp(-np.sum(share * np.log(share)))
  assert found["rankme"] == pytest.approx(rank, rel=1e-3)
  assert found["alignment"] > 0.01 and found["uniformity"] < 0
  assert 1 < found["lidar"] <= 32


def test_patches_are_no_views_of_the_network_s_size(tmp_path):
  runs.save(tmp_path, tiny.method_config("relative_loc"))
  said = []
  protocol = with_measure("label-free", LabelFree(16, classes=16, views=2))
  found = evaluate(open_run(tmp_path), protocol, TRAIN, None, note=said.append)
  assert set(found) == {"rankme"}
  assert "'patches' are not images" in said[0]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_view_of_a_protocol(name):
  view = PROTOCOLS[name].view(224)
  cut = view.cut(300, 400)
  assert view.size == 224 and not cut.flip and not cut.bounded
  ratio, cubic = {
    "knn-dino": (224 / 256, True),
    "knn-mmselfsup": (224 / 256, False),
    "knn-moco-cifar": (1, False),
    "svm-mmselfsup": (None, False),
    "svm-lowshot": (None, False),
    "logreg-dinov2": (1, True),
    "label-free": (224 / 256, True),
    "label-free-projector": (224 / 256, True),
  }[name]
  side = 300 * (ratio or 0)
  whole = (0, 0, 300, 400)
  inside = ((300 - side) / 2, (400 - side) / 2, side, side)
  assert cut.box == (inside if ratio else whole)
  assert cut.cubic == cubic


def test_the_readme_lists_every_protocol_with_its_version():
  text = (tiny.ROOT / "sslx/evaluate/README.md").read_text()
  listed = re.findall(r"^\| `(\S+)` \| (\d+) \|", text, re.MULTILINE)
  assert listed[: len(PROTOCOLS)] == [
    (name, str(protocol.version)) for name, protocol in PROTOCOLS.items()
  ]


def refused(run, protocol, train, test, message):
  with pytest.raises(ConfigError, match=message):
    evaluate(run, protocol, train, test, note=pytest.fail)


def test_what_cannot_be_measured_is_one_error(run, monkeypatch):
  protocol = PROTOCOLS["knn-dino"]
  blank = dataclasses.replace(TEST, labels=None, num_classes=None)
  refused(run, protocol, TRAIN, None, "test set: there is no test set, .*need")
  refused(run, protocol, TRAIN, blank, "test set: it has no labels, .*label-f")
  refused(run, protocol, blank, TEST, "training set: it has no labels")
  refused(run, protocol, TRAIN, pictures(9, 3, 5), "4 classes, .* test set 5")
  refused(run, protocol, pictures(9, 3, 1), TEST, "set has one class, and")
  few = dataclasses.replace(pictures(1, 3), labels=None, num_classes=None)
  label_free = PROTOCOLS["label-free"]
  refused(run, label_free, few, None, "has 1 images; this protocol needs at le")
  unknown = Frozen(1, protocol.measure, ("stage9",))
  refused(run, unknown, TRAIN, TEST, "features stage9; this network has cls")
  few = pictures(12, 3)
  refused(run, PROTOCOLS["logreg-dinov2"], few, TEST, "12 images of 4 classes")
  few = dataclasses.replace(few, labels=np.arange(12, dtype=np.int32) // 11)
  refused(run, PROTOCOLS["svm-mmselfsup"], few, TEST, "class 1 has 1 training")
  monkeypatch.setitem(sys.modules, "sklearn", None)
  for name in ("svm-mmselfsup", "svm-lowshot", "logreg-dinov2"):
    refused(run, PROTOCOLS[name], TRAIN, TEST, r"pip install 'sslx\[evaluate\]")


PROCESS = """
import json, sys
import jax

workdir, process, port = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from sslx.config import ConfigError
from sslx.weights.run import open_run
from tests.evaluate import frozen_test
run = open_run(workdir)
found = {}
for name in ("knn-dino", "label-free"):
  protocol = frozen_test.PROTOCOLS[name]
  if name == "label-free":
    measure = frozen_test.LabelFree(150, classes=40, views=2)
    protocol = frozen_test.with_measure(name, measure)
  found |= frozen_test.measured(run, protocol, [])
try:
  frozen_test.measured(run, "logreg-dinov2")
except ConfigError as error:
  assert "one process" in str(error)
  print("RESULT", json.dumps(found))
"""


@pytest.mark.slow
def test_several_processes_find_the_same(run):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  started = [
    subprocess.Popen(
      [sys.executable, "-c", PROCESS, run.workdir, str(i), port],
      cwd=tiny.ROOT,
      env=tiny.environment(),
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  outputs = [process.communicate(timeout=300)[0] for process in started]
  assert all(process.returncode == 0 for process in started)
  lines = [line for x in outputs for line in x.splitlines() if "RESULT" in line]
  assert len(lines) == 2 and lines[0] == lines[1]
  alone = measured(run, "knn-dino", [], devices=jax.devices()[:2])
  assert alone.items() <= json.loads(lines[0][7:]).items()
