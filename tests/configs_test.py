"""Every shipped config loads, is accepted, and describes a model."""

import jax
import pytest

from sslx import config as config_lib
from sslx import experiment, methods, optim
from sslx.data.pipeline import Data
from sslx.data.views import each
from sslx.step import example_batch
from tests import tiny

CONFIGS = tiny.ROOT / "configs"
RECIPES = sorted((CONFIGS / "selfsup").glob("*.py"))
ENTRIES = [
  f"{method}.py:{name}"
  for method in ("simclr", "mocov2", "swav", "relative_loc", "mocov3", "mae")
  for name in ("cifar10", "imagenet", "quickstart")
]


@pytest.mark.parametrize(
  "spec",
  [f"selfsup/{path.name}" for path in RECIPES] + ["simclr.py", *ENTRIES],
)
def test_config_is_accepted_and_its_parameters_have_shapes(spec):
  config = config_lib.load(str(CONFIGS / spec))
  data = config_lib.build(Data, config.data, "data")
  schedule = config_lib.build(experiment.Schedule, config.schedule, "schedule")
  config_lib.build(experiment.Runtime, config.runtime, "runtime")
  plan = methods.Plan(data.batch_size, 100, 100 * schedule.epochs)
  method = methods.build(config.model, plan)
  batch = example_batch(data.views, method.slots(len(each(data.views))))
  params, _, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
  rate = optim.learning_rate(
    schedule.optimizer,
    schedule.lr,
    global_batch=data.batch_size,
    steps_per_epoch=100,
    epochs=schedule.epochs,
  )
  optimizer = optim.make(schedule.optimizer, rate, params)
  jax.eval_shape(optimizer.init, params)
  assert "backbone" in params
  assert sum(x.size for x in jax.tree.leaves(params)) > 100_000


@pytest.mark.parametrize(
  ("spec", "peak"),
  [
    ("simclr_resnet50_8xb32-coslr-200e_in1k.py", 0.3),
    ("simclr_resnet50_16xb256-coslr-200e_in1k.py", 4.8),
    ("simclr_resnet50_16xb256-coslr-800e_in1k.py", 4.8),
    ("simclr_resnet18_1xb512-coslr-200e_cifar10.py", 0.24),
  ],
)
def test_published_peak_learning_rates(spec, peak):
  config = config_lib.load(str(CONFIGS / "selfsup" / spec))
  schedule = config_lib.build(experiment.Schedule, config.schedule, "schedule")
  found = optim.peak_lr(schedule.optimizer, config.data.batch_size)
  assert found == pytest.approx(peak)


def test_the_entry_point_defaults_to_cifar10():
  default = config_lib.load(str(CONFIGS / "simclr.py"))
  named = config_lib.load(str(CONFIGS / "simclr.py:cifar10"))
  assert config_lib.to_json(default) == config_lib.to_json(named)
  assert default.data.source == "cifar10"
