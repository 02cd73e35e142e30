"""Configs in MMSelfSup's format find their recipes, and are never executed."""

import pathlib
import re
import shlex

import jax
import pytest

from sslx import config as config_lib
from sslx import experiment, optim
from sslx.aot import absent
from sslx.config import ConfigError
from sslx.config import __main__ as cli
from sslx.config.files import typed
from sslx.config.migrate import (
  effects,
  foreign,
  migrate,
  parameters,
  read,
  translate,
)
from sslx.config.migrate.experiment import describe
from sslx.config.reference import resolve
from sslx.config.tree import leaves
from sslx.data.pipeline import Data
from tests import recipes, tiny

FOREIGN = pathlib.Path(__file__).parent / "mmselfsup"
RECIPES = {
  "mae_8xb512": "mae_vit-base-p16_8xb512-bf16-coslr-800e_in1k",
  "mocov1_8xb32": "mocov2_resnet50_8xb32-coslr-200e_in1k",
  "mocov2_8xb32": "mocov2_resnet50_8xb32-coslr-200e_in1k",
  "mocov3-resnet_8xb512": "mocov3_resnet50_8xb512-bf16-coslr-100e_in1k",
  "mocov3-vit_16xb256": (
    "mocov3_vit-small-p16-h12_16xb256-bf16-coslr-300e_in1k"
  ),
  "relative-loc_8xb64": "relative-loc_resnet50_8xb64-steplr-70e_in1k",
  "simclr_8xb32": "simclr_resnet50_8xb32-coslr-200e_in1k",
  "swav_8xb32": "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96",
}
FILES = [FOREIGN / f"{name}.py" for name in RECIPES]
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
  "cosine": [r"schedule\.lr\.(milestones|gamma)"],
  "step": [r"schedule\.lr\.(final|per)"],
  "sgd": [r"schedule\.optimizer\.(b1|b2|eps|trust_.*)"],
  "lars": [r"schedule\.optimizer\.(b1|b2|eps)"],
  "adamw": [r"schedule\.optimizer\.(momentum|nesterov|trust_.*)"],
  "mae_8xb512": [
    r"data\.views\.0\.(jitter_prob|blur_sigma)",
    r"model\.backbone\.features",
  ],
  "mocov1_8xb32": [r"data\.views\.0\.blur_sigma", r"schedule.lr.warmup_from"],
  "mocov2_8xb32": [r"schedule.lr.warmup_from"],
  "swav_8xb32": [r"schedule.lr.warmup_from"],
}


@pytest.fixture(scope="session")
def trees():
  return {file: resolve(typed(str(file)).tree) for file in recipes.SHIPPED}


@pytest.fixture
def known():
  return recipes.SHIPPED


def values_of(name):
  return read.read(FOREIGN / f"{name}.py").values


GONE = object()


def changed(values, path, value):
  """The values with another one at a path, or with `GONE` without it."""
  key, *rest = path
  old = values[key] if key in values or isinstance(values, tuple) else {}
  new = changed(old, rest, value) if rest else value
  if isinstance(values, tuple):
    return values[:key] + (() if new is GONE else (new,)) + values[key + 1 :]
  return {k: v for k, v in (values | {key: new}).items() if v is not GONE}


def leaf_values(values, path=()):
  """Path and value of every leaf."""
  if isinstance(values, dict) and values:
    items = values.items()
  elif isinstance(values, tuple) and any(
    isinstance(item, dict | tuple) for item in values
  ):
    items = enumerate(values)
  else:
    yield path, values
    return
  for key, value in items:
    yield from leaf_values(value, (*path, key))


def outcome(values, name, trees):
  """The recipe, its flags and notes; or what is refused, in one line."""
  try:
    found = translate(values, name, trees)
  except ConfigError as error:
    assert "\n" not in str(error)
    return str(error)
  return found.recipe, found.overrides, repr(found.notes)


def keys(path):
  """Those of a path with dots."""
  return [int(key) if key.isdigit() else key for key in path.split(".")]


def migrated(name, trees, **changes):
  """A fixture with changed values, dots of paths as double underscores."""
  values = values_of(name)
  for path, value in changes.items():
    values = changed(values, keys(path.replace("__", ".")), value)
  return translate(values, name, trees)


def told(found):
  """Why each key is not in the command."""
  return {key: why for key, _, why in found.notes}


def test_these_are_the_fixtures():
  here = {file.stem for file in FOREIGN.glob("*.py")}
  assert here - {"common"} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_each_finds_its_recipe(name, known):
  found = migrate(FOREIGN / f"{name}.py", known)
  assert found.recipe.stem == RECIPES[name]
  assert found.unread == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_with_its_overrides_the_recipe_says_the_same(file, known, tmp_path):
  found = migrate(file, known)
  config = config_lib.load(str(found.recipe), found.overrides)
  dump = tmp_path / "dump.json"
  dump.write_text(config_lib.to_json(config))
  again = migrate(file, [dump])
  assert again.overrides == []
  assert again.notes == found.notes


ODD = ("other", 7, -3, 0, 0.5, False, None, (1, 2), {"a": 1})


@pytest.mark.parametrize("name", RECIPES)
def test_any_leaf_counts_or_is_on_the_list(name, trees):
  """Another value is another outcome, unless it is known to be without effect.

  Whatever the value, there is no other exception than a ConfigError.
  """
  values = values_of(name)
  trees = {x: tree for x, tree in trees.items() if x.stem == RECIPES[name]}
  before, idle = (
    outcome(values, name, trees),
    translate(values, name, trees).idle,
  )
  for path, value in leaf_values(values):
    dotted = ".".join(map(str, path))
    listed = path[0] not in effects.PARTS or any(
      f"{dotted}.".startswith(f"{known}.") for known in idle
    )
    for odd in ODD:
      if not foreign.equal(odd, value):
        after = outcome(changed(values, path, odd), name, trees)
        assert listed or after != before, (dotted, odd)


@pytest.mark.parametrize("name", RECIPES)
def test_the_description_is_whole(name, trees):
  """It has every key of the recipe, or the key is none of the file's."""
  log = foreign.Log()
  wanted = describe(foreign.Node(values_of(name), "", log), name)
  (own,) = (x for f, x in trees.items() if f.stem == RECIPES[name])
  mine = dict(leaves(wanted))
  schedule = wanted["schedule"]
  free = KEPT + NOT_OF[schedule["lr"]["kind"]]
  free += NOT_OF[schedule["optimizer"]["name"]] + NOT_OF.get(name, [])
  missing = [
    path
    for path, _ in leaves(own)
    if path not in mine and not any(re.fullmatch(x, path) for x in free)
  ]
  assert missing == []


def built_of(found):
  """The experiment of the printed command; no data is read."""
  command = re.search(r"python -m sslx.main(.|\n)*?\n\n", f"{found}\n\n")[0]
  words = shlex.split(command.replace("\\\n", ""))[3:]
  overrides, (recipe, workdir) = config_lib.split_overrides(words)
  assert workdir == "--workdir=WORKDIR"
  config = config_lib.load(recipe.removeprefix("--config="), overrides)
  sets = absent.sets(config_lib.build(Data, config.data, "data"))
  return experiment.build(config, sets=sets)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_builds(file, known):
  built = built_of(migrate(file, known))
  assert built.total_steps > 10_000
  check_rules(file.stem, built.abstract_state.params)


def check_rules(name, params):
  """Every word of a rule finds parameters, and flat ones are norms and biases.

  Args:
    name: of a fixture.
    params: of its method.
  """
  log = foreign.Log()
  model = describe(foreign.Node(values_of(name), "", log), name)["model"]
  rules = lambda words: parameters.rules(
    foreign.Node({"custom_keys": words}, "", foreign.Log()), model, "sgd"
  )
  words = [*parameters.KINDS, "backbone", "neck", "head"]
  scaled = rules({w: {"lr_mult": 2.0 + i} for i, w in enumerate(words)})
  assert len(scaled["lr_multipliers"]) > 3
  for pattern, _ in scaled["lr_multipliers"]:
    optim.path_mask(params, [pattern])  # Raises if it finds none.
  flat = rules({w: {"decay_mult": 0.0} for w in parameters.flat(model)})
  mask = optim.path_mask(params, flat["exclude"], flat["exclude_1d"])
  for path, hit in jax.tree_util.tree_flatten_with_path(mask)[0]:
    assert hit == (path[-1].key in ("scale", "bias")), path


A_VIT = dict(type="MoCoV3ViT", arch="deit-tiny", patch_size=16)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "change"),
  [
    ("mocov2_8xb32", {"model__backbone": A_VIT}),
    ("relative-loc_8xb64", {"model__backbone": A_VIT}),
    (
      "relative-loc_8xb64",
      {"train_dataloader__dataset__type": "CIFAR10", "param_scheduler": ()},
    ),
  ],
)
def test_the_command_of_another_backbone_or_set_builds(name, change, trees):
  assert built_of(migrated(name, trees, **change)).total_steps > 1000


def test_simclr_in_full(known):
  found = migrate(FOREIGN / "simclr_8xb32.py", known)
  assert dict(found.overrides) == {
    "schedule.lr.per": "epoch",
    "runtime.seed": "3",
    "runtime.checkpoint.every_epochs": "5",
    "runtime.log_every": "20",
  }
  assert [key for key, _, _ in found.notes] == [
    "optim_wrapper.optimizer.type",
    "train_dataloader.dataset.data_root",
  ]
  assert "train_dataloader.num_workers" in found.idle
  report = str(found)
  assert "--config.schedule.lr.per=epoch" in report
  assert "data_root = '/images'  (see data.data_dir" in report


PIPELINE = "train_dataloader__dataset__pipeline"


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
  for name in RECIPES
  for path in transforms(
    values_of(name)["train_dataloader"]["dataset"]["pipeline"],
    ("train_dataloader", "dataset", "pipeline"),
  )
]


@pytest.mark.parametrize(("name", "path"), EVERY_TRANSFORM, ids=str)
def test_a_transform_less_is_another_command_or_refused(name, path, trees):
  values = values_of(name)
  kind = dict(leaf_values(values))[(*path, "type")]
  same = outcome(changed(values, path, GONE), name, trees) == outcome(
    values, name, trees
  )
  # Reading an image, and its way to the model, are no part of the experiment.
  assert same == (kind in ("LoadImageFromFile", "PackSelfSupInputs"))


def test_a_transform_that_is_not_there_is_off(trees):
  views = {"transforms": ((dict(type="RandomResizedCrop", size=224),),)}
  pipeline = (dict(type="MultiView", num_views=2, **views),)
  found = migrated("simclr_8xb32", trees, **{PIPELINE: pipeline})
  off = {k: v for k, v in found.overrides if k.startswith("data.views")}
  assert off == {
    "data.views.0.flip": "0.0",
    "data.views.0.jitter": "(0.0, 0.0, 0.0, 0.0)",
    "data.views.0.grey": "0.0",
    "data.views.0.blur": "0.0",
  }


def test_another_number_of_kinds_of_views_is_given_whole(trees):
  """SwAV without its small crops."""
  views = values_of("swav_8xb32")["train_dataloader"]["dataset"]["pipeline"][1]
  large = views | {"transforms": views["transforms"][:1], "num_views": (2,)}
  path = f"{PIPELINE}__1"
  found = migrated("swav_8xb32", trees, **{path: large})
  config = config_lib.load(str(found.recipe), found.overrides)
  assert [(view.size, view.count) for view in config.data.views] == [(224, 2)]
  why = "the pipeline makes (2,)"
  assert told(found)["model.head.loss.num_crops"] == why
  # With the loss told so, there is nothing to tell.
  loss = {"model__head__loss__num_crops": (2,)}
  found = migrated("swav_8xb32", trees, **{path: large}, **loss)
  assert "model.head.loss.num_crops" not in told(found)


def test_swav_without_its_hook_has_no_queue_and_freezes_nothing(trees):
  found = migrated("swav_8xb32", trees, custom_hooks=())
  overrides = dict(found.overrides)
  assert overrides["model.queue_size"] == "0"
  assert overrides["schedule.optimizer.freeze"] == "()"
  assert overrides["schedule.optimizer.freeze_steps"] == "None"


def test_the_first_moco_has_a_linear_head_and_no_blur(trees):
  overrides = dict(migrated("mocov1_8xb32", trees).overrides)
  assert overrides["model.projector.dims"] == "(128,)"
  assert overrides["data.views.0.blur"] == "0.0"
  assert overrides["schedule.lr.milestones"] == "(120, 160)"


@pytest.mark.parametrize(
  ("name", "change", "key"),
  [
    ("mae_8xb512", {"param_scheduler__0__begin": 3}, "param_scheduler.0.begin"),
    (
      "mae_8xb512",
      {"param_scheduler__0__convert_to_iter_based": False},
      "param_scheduler.0.convert_to_iter_based",
    ),
    ("mae_8xb512", {"param_scheduler__1__begin": 5}, "param_scheduler.1.begin"),
    ("mae_8xb512", {"param_scheduler__1__end": 700}, "param_scheduler.1.end"),
    (
      "mae_8xb512",
      {"param_scheduler__1__T_max": 80},
      "param_scheduler.1.T_max",
    ),
    (
      "mae_8xb512",
      {"param_scheduler__1__by_epoch": False},
      "param_scheduler.1.by_epoch",
    ),
    (
      "mocov2_8xb32",
      {"param_scheduler__type": "PolyLR"},
      "param_scheduler.type",
    ),
    ("swav_8xb32", {"model__neck__type": "MyNeck"}, "model.neck.type"),
    ("swav_8xb32", {"model__head__type": "MyHead"}, "model.head.type"),
    (
      "simclr_8xb32",
      {"model__head__loss__type": "FocalLoss"},
      "model.head.loss.type",
    ),
    (
      "simclr_8xb32",
      {"model__neck__norm_cfg": {"type": "BN"}},
      "model.neck.norm_cfg.type",
    ),
    (
      "simclr_8xb32",
      {"optim_wrapper__accumulative_counts": 4},
      "optim_wrapper.accumulative_counts",
    ),
    ("simclr_8xb32", {"load_from": "a.pth"}, "load_from"),
    (
      "simclr_8xb32",
      {"model__backbone__frozen_stages": 4},
      "model.backbone.frozen_stages",
    ),
  ],
)
def test_what_sslx_cannot_say_is_told_by_its_key(name, change, key, trees):
  assert key not in told(migrated(name, trees))
  assert key in told(migrated(name, trees, **change))


@pytest.mark.parametrize(
  ("name", "change", "expected"),
  [
    (
      "mae_8xb512",
      {"model__head__norm_pix": False},
      {"model.norm_pix": "False"},
    ),
    (
      "mae_8xb512",
      {"model__neck__decoder_depth": 4, "model__neck__mlp_ratio": 2.0},
      {"model.decoder.depth": "4", "model.decoder.mlp_ratio": "2.0"},
    ),
    (
      "mae_8xb512",
      {"optim_wrapper__clip_grad": {"max_norm": 3.0}},
      {"schedule.optimizer.clip_norm": "3.0"},
    ),
    (
      "mae_8xb512",
      {"optim_wrapper__type": "OptimWrapper"},
      {"model.dtype": "float32"},
    ),
    (
      "mae_8xb512",
      {"optim_wrapper__accumulative_counts": 2},
      # The peak is for the batch of a step.
      {
        "schedule.accumulate": "2",
        "data.batch_size": "8192",
        "schedule.optimizer.lr": "7.5e-05",
      },
    ),
    (
      "simclr_8xb32",
      {"model__neck__with_last_bn": False, "model__neck__with_last_bias": True},
      {"model.projector.last_norm": "none", "model.projector.use_bias": "True"},
    ),
    (
      "mocov2_8xb32",
      {"model__backbone__norm_cfg__type": "SyncBN"},
      {"model.norm_groups": "1"},
    ),
    (
      "simclr_8xb32",
      {"optim_wrapper__optimizer": dict(type="SGD", lr=1.2, momentum=0.9)},
      {
        "schedule.optimizer.name": "sgd",
        "schedule.optimizer.lr": "1.2",
        "schedule.optimizer.weight_decay": "0.0",
      },
    ),
    (
      "mocov2_8xb32",
      {"param_scheduler": ()},
      {"schedule.lr.kind": "constant"},
    ),
    (
      "mocov2_8xb32",
      {"model__backbone": A_VIT | dict(patch_size=8, stop_grad_conv1=True)},
      {
        "model.backbone": '{"_delete_": True, "name": "vit", "variant": "tiny",'
        ' "width": None, "depth": None, "heads": None, "mlp_ratio": 4.0,'
        ' "patch_size": 8, "image_size": 224, "style": "mocov3", "positions":'
        ' "sincos", "class_token": True, "layer_scale": None, "frozen_patches":'
        ' True, "drop_path": 0.0, "features": "cls"}'
      },
    ),
    (
      "mocov3-vit_16xb256",
      {"model__backbone__arch": "small"},  # Of MMPreTrain, which is wide.
      {
        "model.backbone.depth": "8",
        "model.backbone.heads": "8",
        "model.backbone.mlp_ratio": "3.0",
      },
    ),
    (
      "mae_8xb512",
      {
        "train_dataloader__dataset__pipeline__1": dict(
          type="mmcls.RandomResizedCrop",
          backend="pillow",
          crop_ratio_range=(0.3, 1.0),
          scale=192,
        )
      },
      {
        "data.views.0.size": "192",
        "data.views.0.crop_scale": "(0.3, 1.0)",
        "data.views.0.interpolation": "bilinear",
      },
    ),
    (
      "swav_8xb32",
      {"train_dataloader__batch_size": 512},  # Its queue is no whole batch.
      {"model.queue_size": "0", "data.batch_size": "4096"},
    ),
    (
      "mocov2_8xb32",
      {"model__momentum": 0.01},  # MMEngine's average counts the new.
      {"model.momentum": "0.99"},
    ),
  ],
)
def test_what_sslx_has_becomes_a_flag(name, change, expected, trees):
  found = migrated(name, trees, **change)
  before = dict(migrated(name, trees).overrides)
  new = {k: v for k, v in found.overrides if before.get(k) != v}
  assert expected.items() <= new.items(), new
  config = config_lib.load(str(found.recipe), found.overrides)
  assert config.model.method


def test_rules_by_words_in_names_of_parameters(trees):
  """Bias and norms without decay, and a factor of the rate of the neck."""
  rules = "optim_wrapper__paramwise_cfg"
  words = {"bias": {"decay_mult": 0.0}, "backbone": {"lr_mult": 0.1}}
  found = migrated("mocov2_8xb32", trees, **{rules: {"custom_keys": words}})
  overrides = dict(found.overrides)
  assert overrides["schedule.optimizer.exclude"] == '("bias$",)'
  assert overrides["schedule.optimizer.lr_multipliers"] == (
    '(("backbone/", 0.1),)'
  )
  key = "optim_wrapper.paramwise_cfg.custom_keys.backbone"
  assert "does not keep out" in told(found)[key]
  flat = {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0}
  overrides = dict(migrated("mocov2_8xb32", trees, **{rules: flat}).overrides)
  assert overrides["schedule.optimizer.exclude_1d"] == "True"
  # LARS still scales them, if nobody says otherwise.
  overrides = dict(migrated("simclr_8xb32", trees, **{rules: flat}).overrides)
  assert overrides["schedule.optimizer.exclude_1d"] == "False"
  assert '("bias$", 0.0)' in overrides["schedule.optimizer.decay_multipliers"]


def test_the_name_of_a_file_is_not_needed_for_more_than_the_gpus(trees):
  for name in RECIPES:
    batch = re.search(r"_\d+xb\d+", name)[0]
    found = translate(values_of(name), f"mine{batch}", trees)
    assert found.recipe.stem == RECIPES[name]


def test_the_number_of_gpus(trees):
  values = values_of("mocov2_8xb32")
  found = translate(values, "mine", trees)
  why = told(found)
  assert "number of GPUs is not known" in why["model.backbone.norm_cfg.type"]
  assert "8xb32" in why["train_dataloader.batch_size"]
  scaling = {"base_batch_size": 512, "enable": True}
  overrides = translate(
    values | {"auto_scale_lr": scaling}, "mine", trees
  ).overrides
  assert ("data.batch_size", "512") in overrides
  assert ("model.norm_groups", "16") in overrides
  assert ("schedule.optimizer.lr", "0.015") in overrides  # x 512 / 256
  # The rate is for 512 images, of which there are 256.
  overrides = dict(
    translate(values | {"auto_scale_lr": scaling}, "a_8xb32", trees).overrides
  )
  assert overrides["schedule.optimizer.lr"] == "0.015"


def test_nothing_is_executed(tmp_path, known):
  mark = tmp_path / "executed"
  call = f"open({str(mark)!r}, 'w')"
  file = tmp_path / "simclr_8xb32.py"
  file.write_text(
    f"""
_base_ = "{FOREIGN}/simclr_8xb32.py"
import os
{call}
bad = {call}
os.environ["X"] = "1"
big = [0] * 10**12
for i in range(3): {call}
def f(): pass
model = dict(type="SimCLR", backbone=dict(type="ResNet", depth=(lambda: 50)()))
"""
  )
  found = migrate(file, known)
  assert not mark.exists()
  assert len(found.unread) == 7
  assert found.unread[2] == f"simclr_8xb32.py, line 5: bad = {call}"
  # Of a dict, only the entry that is not data is left out.
  assert found.unread[-1] == "simclr_8xb32.py, line 10: depth = (lambda: 50)()"
  assert "not read:" in str(found)


def test_templates_names_and_sums(tmp_path):
  (tmp_path / "base.py").write_text(
    "num_classes = 10\nmodel = dict(head=dict(n=[1, 2]), keep=1)\nlr = 0.5\n"
  )
  (tmp_path / "child.py").write_text(
    """
_base_ = "base.py"
name = "{{fileBasenameNoExtension}}"
root = '{{$ROOT:data/x}}'
a = {{_base_.num_classes}}
b = "{{ _base_.model.head.n }}"
c = _base_.lr * 2 + 1
d = [*()] if 0 else 1
views = ["x"] + ["y"]
e = views[1]
model = dict(head=dict(_delete_=True, m=-a), **dict(z=1))
_base_.model.keep = 2
"""
  )
  found = read.read(tmp_path / "child.py")
  assert found.values == {
    "num_classes": 10,
    "lr": 0.5,
    "name": "child",
    "root": "data/x",
    "a": 10,
    "b": (1, 2),
    "c": 2.0,
    "views": ("x", "y"),
    "e": "y",
    "model": {"head": {"m": -10}, "keep": 2, "z": 1},
  }
  assert [text.split(": ", 1)[1] for text in found.unread] == [
    "d = [*()] if 0 else 1"
  ]


BASE = f"_base_ = {str(FOREIGN / 'simclr_8xb32.py')!r}\n"
BACKBONE = "model = dict(backbone=dict(_delete_=True, type={!r}))"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("model = dict(type='BYOL')", "model.type is 'BYOL'; there are recipes of"),
    ("x = 1", "model.type is missing"),
    ("model = dict(", "cannot be read: .*never closed"),
    ("_base_ = 'a.py'", "inherits itself"),
    ("_base_ = name", "cannot be read: malformed"),
    (
      "_base_ = ['mmcls::x.py']",
      "inherits 'mmcls::x.py', and there is no such",
    ),
    (
      BASE + "param_scheduler = ['x']",
      "param_scheduler.0 is 'x'; it must be a",
    ),
    (BASE + BACKBONE.format("HiViT"), "type is 'HiViT'; sslx has .* MAEViT,"),
    (BASE + BACKBONE.format("SwinTransformer"), "type is 'SwinTransformer'"),
    (
      BASE + BACKBONE.format("mmpretrain.BEiTViT"),
      "model.backbone.type is 'BEiTViT'",
    ),
    (
      BASE + "optim_wrapper = dict(optimizer=dict(lr=0))",
      "optimizer.lr is 0.0; sslx needs a rate above 0",
    ),
    (
      BASE + "optim_wrapper = dict(optimizer=dict(type='Lion'))",
      "type is 'Lion'; sslx has SGD, LARS and AdamW",
    ),
    (
      BASE + "train_cfg = dict(_delete_=True)",
      "train_cfg.max_epochs is missing",
    ),
    (
      BASE + "model = dict(backbone=dict(depth=152))",
      r"config.model.backbone.depth is 152 \(int\); it must be one of",
    ),
    (
      BASE + "train_cfg = dict(max_epochs=5)",
      "config.schedule.lr has warmup_epochs=10.0.*training ends at epoch 5",
    ),
    (
      "model = dict(type='SimCLR')\nrunner = dict()\nlr_config = dict()",
      "has lr_config, runner, as files of MMSelfSup 0.x do",
    ),
    ("x = " + "-" * 100_000 + "1", "nested too deeply|cannot be read"),
    ("x = " + "(" * 5000 + ")" * 5000, "nested too deeply|cannot be read"),
    ("x = " + "+".join(["1"] * 20_000), "nested too deeply|cannot be read"),
    ("a = 0\n" + "a = dict(a=a)\n" * 5000, "nested too deeply|is missing"),
    (BASE + "model = dict(backbone=[1])", r"backbone is \(1,\); it must be a"),
    ("x = '\0'", "cannot be read"),
  ],
)
def test_migrate_refuses_in_one_line(tmp_path, known, text, message):
  (tmp_path / "a.py").write_text(text)
  with pytest.raises(ConfigError, match=message) as refused:
    migrate(tmp_path / "a.py", known)
  assert "\n" not in str(refused.value)
  with pytest.raises(ConfigError, match=r"no\.py cannot be read"):
    migrate(tmp_path / "no.py", known)


def test_the_command(monkeypatch, capsys):
  monkeypatch.chdir(tiny.ROOT)
  assert cli.main(["migrate", str(FOREIGN / "simclr_8xb32.py")]) == 0
  out = capsys.readouterr().out
  recipe = f"configs/selfsup/{RECIPES['simclr_8xb32']}.py"
  assert out.startswith(f"nearest recipe: {recipe}\n")
  assert "not in the command:" in out
