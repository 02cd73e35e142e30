"""Experiments whose images are given, or known by their shapes alone."""

import jax
import pytest

from sslx import experiment
from tests import tiny


def built(kind):
  if kind == "in memory":
    return experiment.build(tiny.config())
  return tiny.build_method(tiny.method_config(kind, model__norm_groups=8), 8)


@pytest.mark.parametrize("kind", ["in memory", "mocov2", "relative_loc"])
def test_shapes_of_a_batch_are_those_of_a_real_one(kind):
  made = built(kind)
  (batch,) = tiny.batches(made, 1)
  expected = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), batch)
  assert expected == jax.tree.map(
    lambda x: (x.shape, x.dtype, x.sharding), made.abstract_batch
  )


def test_images_may_be_given():
  sets = tiny.Pixels(), None
  made = experiment.build(tiny.method_config("simclr"), sets=sets)
  assert made.train is sets[0]
  assert any("no labelled test set" in note for note in made.notes)


@pytest.mark.parametrize(
  ("k", "lowered"), [((10, 20, 100, 200), (10, 20, 64)), ((5,), (5,))]
)
def test_k_is_lowered_to_a_small_bank_with_a_note(k, lowered):
  config = tiny.method_config("simclr", runtime__evaluate__knn__k=k)
  made = experiment.build(config, sets=(tiny.Pixels(), tiny.Pixels()))
  assert made.runtime.evaluate.knn.k == lowered
  assert made.online.evaluators[0].settings.k == lowered
  notes = [note for note in made.notes if "knn.k" in note]
  assert len(notes) == (k != lowered)
  assert all("there are only 64 images" in note for note in notes)
