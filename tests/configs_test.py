"""Every shipped config loads, is accepted, and describes a model."""

import jax
import jax.numpy as jnp
import pytest

from sslx import config as config_lib
from sslx import experiment, methods, optim
from sslx.data.pipeline import Data
from sslx.data.views import each
from sslx.settings import Runtime, Schedule
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
  schedule = config_lib.build(Schedule, config.schedule, "schedule")
  config_lib.build(Runtime, config.runtime, "runtime")
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
    ("mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k.py", 2.4e-3),
    ("mocov3_resnet50_8xb512-bf16-coslr-100e_in1k.py", 9.6),
    ("mocov3_resnet50_8xb512-bf16-coslr-300e_in1k.py", 4.8),
    ("mae_vit-base-p16_8xb512-bf16-coslr-1600e_in1k.py", 2.4e-3),
    ("mae_vit-huge-p14_8xb512-bf16-coslr-1600e_in1k.py", 2.4e-3),
    ("mocov2_resnet50_8xb32-coslr-200e_in1k.py", 0.03),
    ("mocov2_resnet50_8xb32-coslr-800e_in1k.py", 0.03),
    ("mocov2_resnet18_8xb64-coslr-200e_cifar10.py", 0.06),
    ("swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96.py", 0.6),
    ("swav_resnet50_8xb512-mcrop-2-6-coslr-200e_in1k-224-96.py", 4.8),
    ("swav_resnet18_1xb256-coslr-200e_cifar10.py", 0.6),
    ("swav_resnet18_1xb256-mcrop-2-6-coslr-200e_cifar10-32-18.py", 0.6),
    ("relative-loc_resnet50_8xb64-steplr-70e_in1k.py", 0.2),
    ("relative-loc_resnet18_8xb64-steplr-70e_cifar10.py", 0.2),
  ],
)
def test_published_peak_learning_rates(spec, peak):
  config = config_lib.load(str(CONFIGS / "selfsup" / spec))
  schedule = config_lib.build(Schedule, config.schedule, "schedule")
  found = optim.peak_lr(schedule.optimizer, config.data.batch_size)
  assert found == pytest.approx(peak)


def decayed(spec):
  """Paths of the parameters that one step of zero gradients shrinks."""
  config = config_lib.load(str(CONFIGS / "selfsup" / spec)).unlock()
  small = {"width": 16, "depth": 1, "heads": 2}
  config.model.backbone.update(small)
  if "decoder" in config.model:
    config.model.decoder.update(small)
  schedule = config_lib.build(Schedule, config.schedule, "schedule")
  method = methods.build(config.model, methods.Plan(16, 10, 10))
  views = config_lib.build(Data, config.data, "data").views
  batch = example_batch(views, method.slots(len(each(views))))
  params, _, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
  params = jax.tree.map(lambda x: jnp.ones(x.shape), params)
  settings = experiment._without_frozen(schedule.optimizer, method)
  optimizer = optim.make(settings, lambda step: 1.0, params)
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
  assert not found["backbone/blocks_0/attn/qkv/bias"]  # Not one-dimensional.


def test_mocov3_decays_all_of_a_vit_but_what_is_frozen():
  found = decayed("mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k.py")
  for path, shrinks in found.items():
    assert shrinks == ("patch_embed" not in path), path


def test_mocov3s_small_vit_has_12_heads():
  config = config_lib.load(
    f"{CONFIGS}/selfsup/mocov3_vit-small-p16-h12_16xb256-bf16-coslr-300e_in1k.py"
  )
  method = methods.build(config.model, methods.Plan(16, 10, 10))
  assert method.backbone.sizes == (384, 12, 12)


SGD = {"name": "sgd", "momentum": 0.9, "nesterov": False, "exclude_1d": False}
LARC = {"name": "larc", "momentum": 0.9, "weight_decay": 1e-6}
LARC |= {"freeze": ("prototypes",)}
SWAV = {"prototypes": 3000, "temperature": 0.1, "epsilon": 0.05}
SWAV |= {"sinkhorn_iterations": 3, "backbone.zero_init_residual": False}
CROPS = {"0.size": 224, "0.count": 2, "0.crop_scale": (0.14, 1.0)}
CROPS |= {"1.size": 96, "1.count": 6, "1.crop_scale": (0.05, 0.14)}

# The papers' and official codes' figures, by recipe and section.
PUBLISHED = {
  "mocov2_resnet50_8xb32-coslr-200e_in1k.py": {
    "model": {
      "queue_size": 65536,
      "momentum": 0.999,
      "temperature": 0.2,
      "symmetric": False,
      "shuffle": True,
      "norm_groups": 8,
      "projector.dims": (2048, 128),
      "projector.norm": False,
      "backbone.zero_init_residual": False,
    },
    "schedule.optimizer": SGD | {"weight_decay": 1e-4},
    "schedule.lr": {"kind": "cosine", "per": "epoch", "warmup_epochs": 0},
    "schedule": {"epochs": 200},
    "data": {"batch_size": 256},
    "data.views": {"0.crop_scale": (0.2, 1), "0.jitter": (0.4, 0.4, 0.4, 0.1)},
  },
  "mocov2_resnet50_8xb32-coslr-800e_in1k.py": {"schedule": {"epochs": 800}},
  "mocov2_resnet18_8xb64-coslr-200e_cifar10.py": {
    "model": {
      "queue_size": 4096,
      "momentum": 0.99,
      "temperature": 0.1,
      "symmetric": False,
      "norm_groups": 8,
      "projector.dims": (128,),
    },
    "schedule.optimizer": SGD | {"weight_decay": 5e-4},
    "schedule.lr": {"kind": "cosine", "per": "epoch"},
    "data": {"batch_size": 512},
    "data.views": {"0.blur": 0, "0.jitter": (0.4, 0.4, 0.4, 0.1)},
  },
  "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96.py": {
    "model": SWAV
    | {"queue_size": 3840, "queue_start_epoch": 15, "norm_groups": 1},
    "schedule.optimizer": LARC
    | {"freeze_steps": 5005, "trust_coefficient": 0.001, "trust_clip": False}
    | {"exclude_1d": False},
    "schedule.lr": {"kind": "cosine", "per": "step", "final": 0.0006 / 0.6},
    "data": {"batch_size": 256, "std": (0.228, 0.224, 0.225)},
    "data.views": CROPS,
  },
  "swav_resnet50_8xb512-mcrop-2-6-coslr-200e_in1k-224-96.py": {
    "model": SWAV | {"queue_size": 0, "norm_groups": 8},
    "schedule.optimizer": LARC | {"freeze_steps": 313},
    "schedule.lr": {
      "kind": "cosine",
      "warmup_epochs": 10,
      "warmup_from": 0.3 / 4.8,
      "final": 0.0048 / 4.8,
    },
    "data": {"batch_size": 4096},
    "data.views": CROPS,
  },
  "swav_resnet18_1xb256-mcrop-2-6-coslr-200e_cifar10-32-18.py": {
    "model": SWAV | {"queue_size": 3840, "queue_start_epoch": 50},
    "schedule.optimizer": LARC
    | {"trust_coefficient": 0.02, "trust_clip": True, "exclude_1d": True}
    | {"freeze_steps": 2 * (50_000 // 256)},
    "schedule.lr": {"kind": "cosine", "warmup_epochs": 10, "final": 0},
    "data": {"batch_size": 256},
    "data.views": {
      "0.size": 32,
      "0.count": 2,
      "0.crop_scale": (0.2, 1.0),
      "1.size": 18,
      "1.count": 6,
      "1.crop_scale": (0.08, 0.5),
    },
  },
  "relative-loc_resnet50_8xb64-steplr-70e_in1k.py": {
    "model": {"head.hidden": 4096, "dropout": 0.5, "norm_groups": 8},
    "schedule.optimizer": SGD
    | {"weight_decay": 1e-4, "decay_multipliers": (("head/", 5.0),)},
    "schedule.lr": {
      "kind": "step",
      "milestones": (30, 50),
      "gamma": 0.1,
      "warmup_epochs": 5,
      "warmup_from": 0.1,
    },
    "schedule": {"epochs": 70},
    "data": {"batch_size": 512},
    "data.views": {
      "0.size": 64,
      "0.resize": 292,
      "0.crop": 255,
      "0.grey": 0.66,
    },
    "runtime.evaluate": {"features": ("stage3",)},
  },
  "mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k.py": {
    "model": {
      "temperature": 0.2,
      "momentum": 0.99,
      "backbone.style": "mocov3",
      "backbone.frozen_patches": True,
      "backbone.drop_path": 0,
      "projector.dims": (4096, 4096, 256),
      "projector.last_norm": "plain",
      "projector.use_bias": False,
      "predictor.dims": (4096, 256),
      "predictor.last_norm": "plain",
      "norm_groups": 1,
    },
    "schedule.optimizer": {"name": "adamw", "b1": 0.9, "b2": 0.999}
    | {"weight_decay": 0.1, "exclude": (), "exclude_1d": False},
    "schedule.lr": {"kind": "cosine", "per": "step", "final": 0}
    | {"warmup_epochs": 40, "warmup_from": 0},
    "schedule": {"epochs": 300},
    "data": {"batch_size": 4096},
    "data.views": {
      "0.crop_scale": (0.08, 1),
      "0.jitter": (0.4, 0.4, 0.2, 0.1),
      "0.blur": 1.0,
      "0.solarize": 0,
      "1.blur": 0.1,
      "1.solarize": 0.2,
    },
  },
  "mocov3_resnet50_8xb512-bf16-coslr-100e_in1k.py": {
    "model": {
      "temperature": 1.0,
      "momentum": 0.99,
      "backbone.zero_init_residual": True,
      "projector.dims": (4096, 256),
      "projector.last_norm": "plain",
      "predictor.dims": (4096, 256),
      "predictor.last_norm": "none",
    },
    "schedule.optimizer": {"name": "larc", "momentum": 0.9}
    | {"weight_decay": 1e-6, "exclude_1d": True, "trust_coefficient": 0.001},
    "schedule.lr": {"warmup_epochs": 10, "warmup_from": 0, "final": 0},
    "schedule": {"epochs": 100},
    "data.views": {"0.crop_scale": (0.2, 1), "1.crop_scale": (0.2, 1)},
  },
  "mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k.py": {
    "model": {
      "mask_ratio": 0.75,
      "norm_pix": True,
      "backbone.style": "mae",
      "backbone.frozen_patches": False,
      "decoder.width": 512,
      "decoder.depth": 8,
      "decoder.heads": 16,
    },
    "schedule.optimizer": {"name": "adamw", "b1": 0.9, "b2": 0.95}
    | {"weight_decay": 0.05},
    "schedule.lr": {"kind": "cosine", "per": "step", "final": 0}
    | {"warmup_epochs": 40, "warmup_from": 0},
    "data": {"batch_size": 4096},
    "data.views": {"0.crop_scale": (0.2, 1), "0.interpolation": "bicubic"},
  },
}


@pytest.mark.parametrize("spec", PUBLISHED)
def test_published_figures(spec):
  config = config_lib.load(str(CONFIGS / "selfsup" / spec))
  for section, figures in PUBLISHED[spec].items():
    for key, figure in figures.items():
      found = config
      for part in f"{section}.{key}".split("."):
        found = found[int(part) if part.isdigit() else part]
      if isinstance(figure, float):
        figure = pytest.approx(figure)
      assert found == figure, f"{section}.{key}"


@pytest.mark.parametrize(
  "entry", ["simclr", "mocov2", "swav", "relative_loc", "mocov3", "mae"]
)
def test_the_entry_point_defaults_to_cifar10(entry):
  default = config_lib.load(str(CONFIGS / f"{entry}.py"))
  named = config_lib.load(str(CONFIGS / f"{entry}.py:cifar10"))
  assert config_lib.to_json(default) == config_lib.to_json(named)
  assert default.data.source == "cifar10"
