"""No value of a foreign config is overlooked, and none ends in a traceback."""

import pytest
from hypothesis import given, settings, strategies

from sslx.config import ConfigError
from sslx.migrate import check, effects, translate
from sslx.migrate.foreign import equal
from tests import foreign

ODD = ("other", 7, -3, 0, 0.5, False, None, (1, 2), {"a": 1})


@pytest.mark.parametrize("name", foreign.RECIPES)
def test_any_leaf_counts_or_is_on_the_list(name):
  """Another value is another outcome, unless it is known to be without effect.

  Whatever the value, there is no other exception than a ConfigError.
  """
  values, stem = foreign.values_of(name), foreign.RECIPES[name]
  trees = {x: y for x, y in foreign.trees().items() if x.stem == stem}
  before = foreign.outcome(values, name, trees)
  idle = translate(values, name, trees).idle
  for path, value in foreign.leaf_values(values):
    dotted = ".".join(map(str, path))
    listed = path[0] not in effects.PARTS or any(
      f"{dotted}.".startswith(f"{known}.") for known in idle
    )
    for odd in ODD:
      if not equal(odd, value):
        new = foreign.changed(values, path, odd)
        after = foreign.outcome(new, name, trees)
        assert listed or after != before, (dotted, odd)


PLACES = [
  (name, path)
  for name in foreign.RECIPES
  for path, _ in foreign.leaf_values(foreign.values_of(name))
  if path[0] in effects.PARTS
]
MORE = (foreign.GONE, 1e300, float("nan"), 10**30, "'", (), (5,), 64, 1, True)


@settings(max_examples=100, deadline=None)
@given(strategies.sampled_from(PLACES), strategies.sampled_from((*ODD, *MORE)))
def test_a_command_passes_the_checks_of_a_run_or_is_refused(place, value):
  name, path = place
  values = foreign.changed(foreign.values_of(name), path, value)
  try:
    check(translate(values, name, foreign.trees()))
  except ConfigError as error:
    assert "\n" not in str(error)


def transforms(values, path):
  """Path of each transform, those within others included."""
  if isinstance(values, tuple):
    for i, one in enumerate(values):
      yield from transforms(one, (*path, i))
  else:
    yield path
    yield from transforms(values.get("transforms", ()), (*path, "transforms"))


EVERY_TRANSFORM = [
  (name, path)
  for name in foreign.RECIPES
  for path in transforms(
    foreign.values_of(name)["train_dataloader"]["dataset"]["pipeline"],
    ("train_dataloader", "dataset", "pipeline"),
  )
]


@pytest.mark.parametrize(("name", "path"), EVERY_TRANSFORM, ids=str)
def test_a_transform_less_is_another_command_or_refused(name, path):
  values = foreign.values_of(name)
  kind = dict(foreign.leaf_values(values))[(*path, "type")]
  without = foreign.changed(values, path, foreign.GONE)
  before, after = (
    foreign.outcome(x, name, foreign.trees()) for x in (values, without)
  )
  # Reading an image, and its way to the model, are no part of the experiment.
  idle = kind in ("LoadImageFromFile", "PackSelfSupInputs")
  assert (before == after) == idle
