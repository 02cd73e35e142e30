"""Every shipped config loads, is accepted, and describes a model."""

import re

import jax
import jax.numpy as jnp
import pytest

from sslx import config as config_lib
from sslx import methods, optim, settings
from sslx.data.pipeline import Data
from sslx.data.views import each
from sslx.experiment import building
from sslx.recipes import names
from sslx.settings import Runtime, Schedule
from sslx.step import example_batch
from tests import tiny

CONFIGS = tiny.ROOT / "configs"
RECIPES = sorted(
  path
  for kind in ("selfsup", "benchmarks")
  for path in (CONFIGS / kind).glob("*.py")
)
METHODS = (
  "simclr",
  "mocov2",
  "swav",
  "relative_loc",
  "mocov3",
  "byol",
  "simsiam",
  "barlow_twins",
  "vicreg",
  "lejepa",
  "mae",
  "ijepa",
  "dino",
  "ibot",
  "dinov2",
)
ENTRIES = [
  f"{method}.py:{name}"
  for method in METHODS
  for name in ("cifar10", "imagenet", "quickstart")
]


@pytest.mark.parametrize("spec", ENTRIES)
def test_an_entry_is_one_of_the_recipes(spec):
  name = names.full_name(settings.load(str(CONFIGS / spec)), groups=1)
  there = [x.stem for x in RECIPES if x.parent.name == "selfsup"]
  # The name of a recipe may say how many devices it is for.
  alike = re.compile(re.sub(r"_1xb\d+", r"_\\d+xb\\d+", name))
  assert any(alike.fullmatch(stem) for stem in there), name


@pytest.mark.parametrize(
  "spec", [str(path.relative_to(CONFIGS)) for path in RECIPES]
)
def test_config_is_accepted_and_its_parameters_have_shapes(spec):
  config = settings.load(str(CONFIGS / spec))
  data = config_lib.build(Data, config.data, "data")
  schedule = config_lib.build(Schedule, config.schedule, "schedule")
  config_lib.build(Runtime, config.runtime, "runtime")
  plan = schedule.plan(data.batch_size, 100 * data.batch_size)
  method = methods.build(config.model, plan)
  batch = example_batch(data.views, method.slots(each(data.views)))
  params, _, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
  rate = optim.learning_rate(schedule.optimizer, schedule.lr, plan)
  optimizer = optim.make(schedule.optimizer, rate, params, plan)
  jax.eval_shape(optimizer.init, params)
  assert "backbone" in params
  assert sum(x.size for x in jax.tree.leaves(params)) > 100_000


def decayed(spec):
  """Paths of the parameters that one step of zero gradients shrinks."""
  config = settings.load(str(CONFIGS / "selfsup" / spec)).unlock()
  small = {"width": 16, "depth": 1, "heads": 2}
  config.model.backbone.update(small)
  for head in {"decoder", "predictor"} & set(config.model):
    if "depth" in config.model[head]:
      config.model[head].update(small)
  schedule = config_lib.build(Schedule, config.schedule, "schedule")
  plan = methods.Plan(16, 10, 10)
  method = methods.build(config.model, plan)
  views = config_lib.build(Data, config.data, "data").views
  batch = example_batch(views, method.slots(each(views)))
  params, _, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
  params = jax.tree.map(lambda x: jnp.ones(x.shape), params)
  trained = building.without_frozen(schedule.optimizer, method)
  optimizer = optim.make(trained, lambda step: 1.0, params, plan)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(zeros, optimizer.init(params), params)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): bool(x.any())
    for path, x in jax.tree_util.tree_flatten_with_path(updates)[0]
  }


def test_mae_decays_all_but_biases_and_norms():
  found = decayed("mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k.py")
  for path, shrinks in found.items():
    assert shrinks == (not path.endswith(("bias", "scale"))), path
  assert found["backbone/cls_token"] and found["decoder/mask_token"]


def test_ijepa_decays_all_but_biases_and_norms():
  found = decayed("ijepa_vit-huge-p14_16xb128-bf16-coslr-300e_in1k.py")
  for path, shrinks in found.items():
    assert shrinks == (not path.endswith(("bias", "scale"))), path
  assert found["predictor/mask_token"]


def test_mae_of_solo_learn_decays_all():
  found = decayed("mae_vit-small-p4-h12_1xb256-coslr-200e_cifar10.py")
  assert all(found.values())


def test_mocov3_decays_all_of_a_vit_but_what_is_frozen():
  found = decayed("mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k.py")
  for path, shrinks in found.items():
    assert shrinks == ("patch_embed" not in path), path


def test_mocov3s_small_vit_has_12_heads():
  config = settings.load(
    f"{CONFIGS}/selfsup/mocov3_vit-small-p16-h12_16xb256-bf16-coslr-300e_in1k.py"
  )
  method = methods.build(config.model, methods.Plan(16, 10, 10))
  assert method.backbone.sizes == (384, 12, 12)


@pytest.mark.parametrize("entry", METHODS)
def test_the_entry_point_defaults_to_cifar10(entry):
  default = settings.load(str(CONFIGS / f"{entry}.py"))
  named = settings.load(str(CONFIGS / f"{entry}.py:cifar10"))
  assert config_lib.to_json(default) == config_lib.to_json(named)
  assert default.data.source == "cifar10"
