"""Configs in MMSelfSup's format find their recipes, and the command runs."""

import re
import shlex

import jax
import pytest

from sslx import config as config_lib
from sslx import experiment, optim
from sslx.aot import absent
from sslx.config import __main__ as cli
from sslx.config.tree import leaves
from sslx.data.pipeline import Data
from sslx.migrate import migrate, parameters, translate
from sslx.migrate.experiment import describe
from sslx.migrate.foreign import Log, Node
from sslx.schedules import Plan
from sslx.settings import load
from tests import foreign, recipes, tiny

# Keys of a recipe that no foreign file decides: where images lie and how they
# are read, evaluation, memory, and the rule that the learning rate is told by.
KEPT = r"""
  data\.(data_dir|prepare|train|test|exif|max_bad|threads|workers|centre\..*)
  data\.views\.\d\.blur_kernel
  (model\.backbone|model\.decoder)\.(remat|attention)
  schedule\.optimizer\.lr_(scaling|batch)
  runtime\..*
""".split()


# What has no part in a schedule, an optimizer, or an experiment: what stands on
# something that is off.
NOT_OF = {
  "cosine": [r"schedule\.lr\.(milestones|gamma|start|over)"],
  "step": [r"schedule\.lr\.(final|per|start|over)"],
  "sgd": [r"schedule\.optimizer\.(b1|b2|eps|trust_.*)"],
  "lars": [r"schedule\.optimizer\.(b1|b2|eps)"],
  "adamw": [r"schedule\.optimizer\.(momentum|nesterov|trust_.*)"],
  "mae_8xb512": [
    r"data\.views\.0\.(jitter_prob|blur_sigma)",
    r"model\.backbone\.features",
  ],
  "mocov1_8xb32": [r"data\.views\.0\.blur_sigma", r"schedule.lr.warmup_from"],
  "mocov2_8xb32": [r"schedule.lr.warmup_from"],
  "simsiam_8xb32": [r"schedule.lr.warmup_from"],
  "swav_8xb32": [r"schedule.lr.warmup_from"],
}


# Of each file: what its method's makers wrote, said as sslx says it.
FIGURES = {
  "barlow-twins_8xb256": {
    "model.projector.dims": (8192, 8192, 8192),
    "model.projector.last_norm": "plain",
    "model.redundancy_weight": 0.0051,
    "data.batch_size": 2048,
    "data.views.0.interpolation": "bicubic",
    "data.views.1.solarize": 0.2,
    "schedule.optimizer.rules.0.0": "(bias|scale)$",
    "schedule.optimizer.rules.0.1.lr": 0.024,
    "schedule.optimizer.exclude_1d": True,
    "schedule.lr.final": 0.001,
    "schedule.lr.per": "step",
    "peak": 1.6,
  },
  "byol_16xb256": {
    "model.method": "byol",
    "model.backbone.zero_init_residual": False,
    "model.projector.dims": (4096, 256),
    "model.predictor.dims": (4096, 256),
    "model.predictor.last_norm": "none",
    "model.momentum.start": 0.99,
    "model.norm_groups": 1,
    "data.batch_size": 4096,
    "data.views.0.interpolation": "bicubic",
    "data.views.1.solarize": 0.2,
    "schedule.optimizer.exclude_1d": True,
    "schedule.lr.warmup_from": 1e-4,
    "peak": 4.8,
  },
  "mae_8xb512": {
    "model.backbone.variant": "base",
    "model.decoder.width": 512,
    "model.mask_ratio": 0.75,
    "data.batch_size": 4096,
    "data.views.0.interpolation": "bicubic",
    "data.views.0.jitter": (0.0, 0.0, 0.0, 0.0),
    "schedule.optimizer.b2": 0.95,
    "schedule.lr.per": "step",
    "schedule.lr.warmup": 40.0,
    "peak": 2.4e-3,
  },
  "mocov1_8xb32": {
    "model.projector.dims": (128,),
    "model.temperature": 0.07,
    "model.norm_groups": 8,
    "data.views.0.blur": 0.0,
    "data.views.0.jitter": (0.4, 0.4, 0.4, 0.4),
    "data.views.0.jitter_prob": 1.0,
    "schedule.lr.kind": "step",
    "schedule.lr.milestones": (120, 160),
    "peak": 0.03,
  },
  "mocov2_8xb32": {
    "model.projector.dims": (2048, 128),
    "model.projector.norm": False,
    "model.momentum": 0.999,
    "model.queue_size": 65536,
    "data.views.0.blur": 0.5,
    "schedule.lr.per": "epoch",
    "schedule.optimizer.exclude_1d": False,
    "peak": 0.03,
  },
  "mocov3-resnet_8xb512": {
    "model.backbone.depth": 50,
    "model.projector.dims": (4096, 256),
    "model.projector.last_norm": "plain",
    "model.predictor.last_norm": "none",
    "model.temperature": 1.0,
    "schedule.optimizer.name": "lars",
    "schedule.optimizer.exclude_1d": True,
    "peak": 9.6,
  },
  "mocov3-vit_16xb256": {
    "model.backbone.variant": "small",
    "model.backbone.heads": 12,
    "model.backbone.frozen_patches": True,
    "model.projector.dims": (4096, 4096, 256),
    "model.predictor.dims": (4096, 256),
    "model.dtype": "bfloat16",
    "data.views.0.blur": 1.0,
    "data.views.1.blur": 0.1,
    "data.views.1.solarize": 0.2,
    "schedule.optimizer.clip_norm": 5.0,
    "peak": 2.4e-3,
  },
  "relative-loc_8xb64": {
    "model.head.hidden": 4096,
    "model.norm_groups": 8,
    "data.views.0.size": 64,
    "data.views.0.grey": 0.66,
    "schedule.optimizer.rules.0.0": "head/",
    "schedule.optimizer.rules.0.1.weight_decay": 5.0,
    "schedule.lr.milestones": (30, 50),
    "peak": 0.2,
  },
  "simclr_8xb32": {
    "model.backbone.zero_init_residual": True,
    "model.projector.last_norm": "affine",
    "model.norm_groups": 1,
    "data.views.0.crop_scale": (0.08, 1.0),
    "schedule.optimizer.exclude_1d": True,
    "schedule.lr.per": "epoch",
    "schedule.lr.warmup_from": 1e-4,
    "runtime.seed": 3,
    "peak": 0.3,
  },
  "simsiam_8xb32": {
    "model.method": "simsiam",
    "model.backbone.zero_init_residual": True,
    "model.projector.dims": (2048, 2048, 2048),
    "model.projector.last_norm": "plain",
    "model.predictor.dims": (512, 2048),
    "model.predictor.use_bias": True,
    "data.batch_size": 256,
    "schedule.optimizer.rules.0.0": "predictor/",
    "schedule.optimizer.rules.0.1.schedule.kind": "constant",
    "schedule.optimizer.weight_decay": 1e-4,
    "schedule.lr.per": "epoch",
    "peak": 0.05,
  },
  "swav_8xb32": {
    "model.prototypes": 3000,
    "model.queue_size": 3840,
    "model.queue_start": 15,
    "data.views.0.count": 2,
    "data.views.1.count": 6,
    "data.views.1.size": 96,
    "schedule.optimizer.rules.0.0": "prototypes",
    "schedule.optimizer.rules.0.1.freeze.steps": 5005,
    "schedule.lr.final": 0.001,
    "peak": 0.6,
  },
}


def test_these_are_the_files():
  here = {file.stem for file in foreign.FOLDER.glob("*.py")}
  assert here - {"common"} == set(foreign.RECIPES) == set(FIGURES)


@pytest.mark.parametrize("file", foreign.FILES, ids=lambda file: file.stem)
def test_each_finds_its_recipe_and_says_the_same(file, tmp_path):
  found = migrate(file, recipes.SHIPPED)
  assert found.recipe.stem == foreign.RECIPES[file.stem]
  assert found.unread == []
  settings = foreign.settings(found)
  expected = FIGURES[file.stem]
  assert {key: settings[key] for key in expected} == expected
  # With its flags the recipe needs none.
  config = load(str(found.recipe), found.overrides)
  dump = tmp_path / "dump.json"
  dump.write_text(config_lib.to_json(config))
  again = migrate(file, [dump])
  assert again.overrides == []
  assert again.notes == found.notes


@pytest.mark.parametrize("name", foreign.RECIPES)
def test_the_description_is_whole(name):
  """It has every key of the recipe, or the key is none of the file's."""
  wanted = describe(Node(foreign.values_of(name), "", Log()), name)
  stem = foreign.RECIPES[name]
  (own,) = (x for f, x in foreign.trees().items() if f.stem == stem)
  mine = dict(leaves(wanted))
  schedule = wanted["schedule"]
  free = KEPT + NOT_OF[schedule["lr"]["kind"]]
  free += NOT_OF[schedule["optimizer"]["name"]] + NOT_OF.get(name, [])
  missing = [
    path
    for path, _ in leaves(own)
    if not any(key == path or key.startswith(f"{path}.") for key in mine)
    and not any(re.fullmatch(x, path) for x in free)
  ]
  assert missing == []


def built_of(found):
  """The experiment of the printed command; no data is read."""
  command = re.search(r"python -m sslx.main(.|\n)*?\n\n", f"{found}\n\n")[0]
  words = shlex.split(command.replace("\\\n", ""))[3:]
  overrides, (recipe, workdir) = config_lib.split_overrides(words)
  assert workdir == "--workdir=WORKDIR"
  config = load(recipe.removeprefix("--config="), overrides)
  sets = absent.sets(config_lib.build(Data, config.data, "data"))
  return experiment.build(config, sets=sets)


@pytest.mark.slow
@pytest.mark.parametrize("file", foreign.FILES, ids=lambda file: file.stem)
def test_the_command_builds(file):
  built = built_of(migrate(file, recipes.SHIPPED))
  assert built.total_steps > 10_000
  check_rules(file.stem, built.abstract_state.params)


def check_rules(name, params):
  """Every word of a rule finds parameters, and flat ones are norms and biases.

  Args:
    name: of a fixture.
    params: of its method.
  """
  values = Node(foreign.values_of(name), "", Log())
  model = describe(values, name)["model"]
  rules = lambda words: parameters.rules(
    Node({"custom_keys": words}, "", Log()), model, "sgd"
  )
  words = [*parameters.KINDS, "backbone", "neck", "head"]
  scaled = rules({w: {"lr_mult": 2.0 + i} for i, w in enumerate(words)})
  assert len(scaled["rules"]) > 3
  flat = rules({w: {"decay_mult": 0.0} for w in parameters.flat(model)})
  settings = {"name": "sgd", "lr": 1.0}
  for found in (scaled, flat):
    found = config_lib.build(optim.Optimizer, settings | found, "schedule")
    # Raises if a pattern matches no parameter.
    optim.make(found, lambda step: 1.0, params, Plan())
  for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    assert found.excludes(name, x) == (path[-1].key in ("scale", "bias")), path


VIT = {"type": "MoCoV3ViT", "arch": "deit-tiny", "patch_size": 16}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("mocov2_8xb32", {"model__backbone": VIT}),
    ("relative-loc_8xb64", {"model__backbone": VIT}),
    (
      "relative-loc_8xb64",
      {"train_dataloader__dataset__type": "CIFAR10", "param_scheduler": ()},
    ),
  ],
)
def test_the_command_of_another_backbone_or_set_builds(name, change):
  found = foreign.migrated(name, **change)
  assert built_of(found).total_steps > 1000


def test_the_name_of_a_file_is_not_needed_for_more_than_the_gpus():
  for name, recipe in foreign.RECIPES.items():
    batch = re.search(r"_\d+xb\d+", name)[0]
    values = foreign.values_of(name)
    found = translate(values, f"mine{batch}", foreign.trees())
    assert found.recipe.stem == recipe


def test_the_number_of_gpus():
  values = foreign.values_of("mocov2_8xb32")
  why = foreign.told(translate(values, "mine", foreign.trees()))
  assert "number of GPUs is not known" in why["model.backbone.norm_cfg.type"]
  assert "8xb32" in why["train_dataloader.batch_size"]
  values["auto_scale_lr"] = {"base_batch_size": 512, "enable": True}
  found = foreign.settings(translate(values, "mine", foreign.trees()))
  assert found["data.batch_size"] == 512
  assert found["model.norm_groups"] == 16
  assert found["peak"] == 0.03
  # The rate is for 512 images, of which there are 256.
  found = foreign.settings(translate(values, "mine_8xb32", foreign.trees()))
  assert found["data.batch_size"] == 256
  assert found["peak"] == 0.015


def test_the_command(monkeypatch, capsys):
  monkeypatch.chdir(tiny.ROOT)
  assert cli.main(["migrate", str(foreign.FOLDER / "simclr_8xb32.py")]) == 0
  out = capsys.readouterr().out
  recipe = f"configs/selfsup/{foreign.RECIPES['simclr_8xb32']}.py"
  assert out.startswith(f"nearest recipe: {recipe}\n")
  command, told, idle = out.split("\n\n")[1:]
  assert command.endswith("--config.runtime.log_every=20")
  assert told.startswith("not in the command:\n  optim_wrapper.optimizer.type")
  assert "data_root = '/images'  (see data.data_dir and data.train)" in told
  assert idle.startswith("without effect on the result:\n")
  assert "train_dataloader.num_workers" in idle
