"""The recipes say what the sources that they name say."""

import ast
import fnmatch
import math

import pytest

from sslx import config as config_lib
from sslx import methods, optim, settings
from sslx.config import loading, tree
from sslx.settings import Schedule
from tests import tiny
from tests.sources import TABLE, Differs

SELFSUP = tiny.ROOT / "configs" / "selfsup"
RECIPES = sorted(file.stem for file in SELFSUP.glob("*.py"))
# Of every recipe, whatever it does.
TOLD = {
  "data.batch_size",
  "schedule.epochs",
  "schedule.lr.kind",
  "schedule.lr.warmup",
  "schedule.lr.per",
  "schedule.optimizer.name",
  "schedule.optimizer.weight_decay",
  "schedule.optimizer.rules",
  "schedule.optimizer.exclude_1d",
  "data.views.0.size",
  "start",
  "peak",
  "end",
}
# Of a recipe with a source.
PUBLISHED = {"data.mean", "data.std", "data.views.0.grey"}


def rows(recipe):
  return [row for row in TABLE if fnmatch.fnmatch(recipe, row.recipes)]


def figures(recipe):
  return {key: x for row in rows(recipe) for key, x in row.figures.items()}


def text(loaded):
  """Of the files of a recipe, in one line."""
  own = (tiny.ROOT / loaded.file).read_text().replace("\n", " ")
  own = " ".join(own.replace("# ", "").split())
  return " ".join([own, *map(text, loaded.bases)])


def value(config, key):
  if key == "sizes":
    plan = methods.Plan(config.data.batch_size, 10, 10)
    return methods.build(config.model, plan).backbone.sizes
  if key in ("start", "peak", "end"):
    schedule = config_lib.build(Schedule, config.schedule, "schedule")
    if key == "peak":
      return optim.peak_lr(schedule.optimizer, config.data.batch_size)
    batch_size = config.data.batch_size
    plan = schedule.plan(batch_size, images=10 * batch_size)
    rate = optim.learning_rate(schedule.optimizer, schedule.lr, plan)
    return rate(0 if key == "start" else plan.total_steps)
  for part in key.split("."):
    config = config[int(part) if part.isdigit() else part]
  return tree.plain(config)


def same(found, told):
  if found is None or told is None:
    return found is told
  if isinstance(told, tuple):
    return len(found) == len(told) and all(map(same, found, told))
  if isinstance(told, dict):
    found = {key: x for key, x in found.items() if x is not None}
    return found.keys() == told.keys() and all(
      same(found[key], x) for key, x in told.items()
    )
  if isinstance(told, bool | str):
    return found == told
  return math.isclose(found, told, rel_tol=1e-6, abs_tol=1e-12)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.recipes)
def test_every_row_is_of_a_recipe(row):
  assert fnmatch.filter(RECIPES, row.recipes)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_its_source_says(recipe):
  config = settings.load(f"{SELFSUP}/{recipe}.py")
  for key, figure in figures(recipe).items():
    told = figure.ours if isinstance(figure, Differs) else figure
    assert same(value(config, key), told), (key, value(config, key), told)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_table_has_all_that_matters_of_it(recipe):
  told = figures(recipe)
  needed = TOLD | (set() if "_shapes" in recipe else PUBLISHED)
  assert needed <= told.keys(), needed - told.keys()
  views = settings.load(f"{SELFSUP}/{recipe}.py").data.views
  if "_shapes" not in recipe:
    for n in range(len(views)):
      assert f"data.views.{n}.size" in told


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_its_source_and_where_it_differs(recipe):
  docstring = ast.get_docstring(
    ast.parse((SELFSUP / f"{recipe}.py").read_text())
  )
  for row in rows(recipe):
    assert row.source.partition(",")[0] in docstring
  known = text(loading.read(f"{SELFSUP}/{recipe}.py"))
  for key, figure in figures(recipe).items():
    if isinstance(figure, Differs):
      assert figure.said in known, key
      assert figure.ours != figure.theirs
