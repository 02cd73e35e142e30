"""Every key that a settings class has can be set by a flag, in every recipe."""

import re

import pytest
from hypothesis import given, settings, strategies

from sslx.config import ConfigError, loading, schema, shipped
from sslx.config.overrides import assign
from sslx.config.tree import leaves
from sslx.settings import SECTIONS, load
from tests import tiny

CONFIGS = tiny.ROOT / "configs"
RECIPES = shipped.recipes(CONFIGS)
# A file alone, without a test of each value.
SIMCLR = str(CONFIGS / "simclr.py")


def known_keys(hint, node, given, path):
  """Dotted path of every key that the settings classes of a config have."""
  if isinstance(node, tuple):
    for i, item in enumerate(node):
      inner = schema.element(hint, i)
      yield from known_keys(inner, item, given, f"{path}.{i}")
  elif isinstance(node, dict):
    for key, field in (schema.keys(hint, node, given) or {}).items():
      here = f"{path}.{key}"
      yield here, key in node
      inner = schema.given_in(hint, given)
      yield from known_keys(field.hint, node.get(key), inner, here)


def all_keys(tree):
  for section, hint in SECTIONS.items():
    yield from known_keys(hint, tree[section], (), section)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_key_can_be_set_in_every_recipe(file):
  tree = loading.read(str(file), (), SECTIONS).tree
  found = dict(all_keys(tree))
  assert len(found) > 70
  assert all(found.values())  # Filled in where the file does not say it.
  values = dict(leaves(tree))
  for path in found:
    if path in values:
      value = values[path]
      text = value if isinstance(value, str) else repr(value)
      if "ref(" not in text:
        assert assign(tree, path, text, SECTIONS) == (tree, path)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_has_the_keys_of_all_methods(file):
  model = load(str(file)).model
  assert model.norm_groups >= 1
  changes = [("model.dtype", "bfloat16"), ("model.norm_groups", "1")]
  changed = load(str(file), changes).model
  assert (changed.dtype, changed.norm_groups) == ("bfloat16", 1)


def test_a_flag_of_each_kind_of_key_reaches_the_run():
  """Those that no file of the recipe names."""
  flags = {
    "data.threads": "4",
    "data.data_dir": "2024",
    "data.train": "run#2",
    "schedule.accumulate": "1",
    "schedule.optimizer.rules": "[('bias', dict(exclude=True))]",
    "schedule.optimizer.eps": "1e-9",
    "runtime.checkpoint.fall_back": "true",
    "runtime.checkpoint.keep_every_epochs": "5",
    "model.dtype": "bfloat16",
    "model.norm_groups": "4",
    "model.temperature": "1",
  }
  config = load(SIMCLR, flags.items())
  assert config.data.threads == 4
  assert config.data.data_dir == "2024"
  assert config.data.train == "run#2"
  ((pattern, rule),) = config.schedule.optimizer.rules
  assert (pattern, rule.exclude, rule.lr) == ("bias", True, None)
  assert config.schedule.optimizer.eps == 1e-9
  assert config.runtime.checkpoint.fall_back is True
  assert config.runtime.checkpoint.keep_every_epochs == 5
  assert config.model.dtype == "bfloat16"
  assert config.model.norm_groups == 4
  assert config.model.temperature == 1.0
  assert isinstance(config.model.temperature, float)


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("data.+threads=4", r"data.threads exists already; leave out the \+"),
    ("data.tread=4", r"data.tread does not exist. Did you mean 'threads'"),
    ("data.threads=many", r"data.threads is 'many' \(str\); it must be int or"),
    ("schedule.optimizer.name=adam", "name is 'adam'.*one of 'sgd', 'adamw'"),
    ("data.views.+=dict(size=8, cunt=1)", "views.1.cunt does not exist"),
    ("data.views.+.size=8.5", "views.1.size is 8.5"),
    (
      "model.backbone.name=vit",
      r"name=vit has no \w+.* set for 'resnet'.*dict",
    ),
    ("model.projector=3", r"projector is 3 \(int\); it must be a group"),
  ],
)
def test_what_a_class_does_not_know_is_refused(flag, message):
  with pytest.raises(ConfigError, match=message):
    load(SIMCLR, [tuple(flag.split("=", 1))])


def test_another_choice_brings_its_own_keys():
  text = "dict(_delete_=True, name='vit', variant='tiny', patch_size=4)"
  config = load(SIMCLR, [("model.backbone", text)])
  assert config.model.backbone.name == "vit"
  assert config.model.backbone.drop_path == 0.0
  assert "stem" not in config.model.backbone
  # Where nothing was set for the old one, its defaults go with it.
  tree = loading.read(SIMCLR, (), SECTIONS).tree
  node = {"name": "resnet"}
  node = schema.filled(
    SECTIONS["model"], {"method": "simclr", "backbone": node}
  )
  tree, _ = assign(
    tree | {"model": node}, "model.backbone.name", "vit", SECTIONS
  )
  assert "stem" not in tree["model"]["backbone"]
  assert tree["model"]["backbone"]["mlp_ratio"] == 4.0


ODD = (
  *("", "-1", "0", "1e400", "nan", "inf", "None", "True", "'x'", "()", "[]"),
  *("{}", "dict()", "dict(a=1)", "((((", "99999999999999999999", "1.5", "#"),
  *("ref('data')", "bf16", "(1, 'a', None)", "dict(_delete_=True)", "é", "\0"),
  *(
    "[dict(a=1)]",
    "-1e-30",
    "lambda: 0",
    "dict(kind='crop')",
    "a.b",
    "+",
    "\n",
  ),
)
KEYS = [path for path, _ in all_keys(loading.read(SIMCLR, (), SECTIONS).tree)]
MAE_KEYS = [
  path
  for path, _ in all_keys(
    loading.read(str(CONFIGS / "mae.py"), (), SECTIONS).tree
  )
]


@settings(max_examples=300, deadline=None)
@given(
  strategies.one_of(
    strategies.tuples(
      strategies.just("simclr.py"), strategies.sampled_from(KEYS)
    ),
    strategies.tuples(
      strategies.just("mae.py"), strategies.sampled_from(MAE_KEYS)
    ),
  ),
  strategies.one_of(strategies.sampled_from(ODD), strategies.text(max_size=8)),
)
def test_a_value_is_taken_or_refused_in_words(place, text):
  """Of any key: a config that runs, or a ConfigError that names a key."""
  file, key = place
  try:
    load(str(CONFIGS / file), [(key, text)])
  except ConfigError as error:
    assert re.search(r"config\.\w+", str(error)), error
    assert "\n" not in str(error), error
