"""The page of results: it is made from the cards, and says what was not run."""

import json

from sslx.recipes import results
from tests import tiny

CARD = {
  "recipe": "moco",
  "hardware": "1 x cpu",
  "before": {"knn_20": 0.2},
  "after": {"knn_20": 0.5, "knn_10": 0.4},
  "evaluations": [
    {
      "protocol": "linear-quick", "version": 1,
      "changed": ["schedule.epochs=1"], "data": "cifar10 (train[:1%])",
      "results": {"top1": 0.625, "top5": 0.9}, "before": {"top1": 0.25},
    },
    {
      "protocol": "knn-dino", "version": 2, "changed": [], "data": "cifar10",
      "results": {"knn_10": 0.75, "knn_20": 0.7},
    },
  ],
}  # fmt: skip


def test_the_page_is_that_of_the_cards():
  page = (tiny.ROOT / "configs" / "RESULTS.md").read_text()
  assert page == results.page(results.rows())
  recipes = {path.stem for path in (tiny.ROOT / "configs/selfsup").glob("*.py")}
  targets = tiny.ROOT / "configs" / "results" / results.TARGETS
  assert {x["recipe"] for x in json.loads(targets.read_text())} <= recipes


def test_targets_stand_beside_what_was_reached(tmp_path):
  (tmp_path / "a.json").write_text(json.dumps(CARD))
  targets = [
    {"recipe": recipe, "protocol": "knn-dino v2 knn_10", **target}
    for recipe, target in (
      ("moco", {"target": 80, "source": "p"}),
      ("dino", {"target": 74.5, "source": "q"}),
    )
  ]
  (tmp_path / results.TARGETS).write_text(json.dumps(targets))
  found = {(x.recipe, x.protocol): x for x in results.rows(tmp_path)}
  assert len(found) == 4
  one = found["moco", "knn-dino v2 knn_10"]
  assert (one.target, one.reached, one.untrained) == (80, 75, None)
  changed = found[
    "moco", "linear-quick v1 (schedule.epochs=1; train[:1%]) top1"
  ]
  assert (changed.reached, changed.untrained) == (62.5, 25)
  assert found["moco", "online knn_20"].reached == 50
  page = results.page(list(found.values()))
  assert "| dino | knn-dino v2 knn_10 | 74.5 | not run |  |  | q |" in page
  assert "| 80.0 | 75.0 |  | a.json, 1 x cpu | p |" in page
