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


class Seen(tiny.Pixels):
  """Knows which of its images were read."""

  def __init__(self):
    super().__init__()
    self.indices = set()

  def read(self, indices):
    self.indices |= {int(i) for i in indices}
    return super().read(indices)


def test_a_bank_of_some_images_is_the_same_each_time_and_is_told():
  train = Seen()
  config = tiny.method_config(
    "simclr",
    "flat",
    runtime__evaluate__knn__bank=16,
    data__centre__size=12,
    data__centre__resize=12,
  )
  made = experiment.build(config, sets=(train, tiny.Pixels()))
  assert "kNN over 16 of 64 training images" in made.notes
  state = made.init_state()
  first = made.online.run(state, pytest.fail)
  # One of each four, though every fourth would be of even classes only.
  assert sorted(i // 4 for i in train.indices) == list(range(16))
  assert len({i % 10 for i in train.indices}) > 5
  again = set(train.indices)
  assert made.online.run(state, pytest.fail) == first
  assert train.indices == again
  assert made.train is train and len(made.order[0]) == tiny.BATCH
