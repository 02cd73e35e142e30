"""Config files: inheritance, arguments, and the origin of every value."""

import json
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import settings
from sslx.config import ConfigError, tree
from tests import config_files, tiny
from tests.config_files import EMPTY, write, write_whole

CONFIGS = tiny.ROOT / "configs"


def test_inherit_merges_groups_and_replaces_values(tmp_path):
  write(tmp_path, "a.py", "{'model': {'x': 1, 'y': {'z': (1, 2)}}}")
  write(tmp_path, "b.py", "ConfigDict({'data': {'n': 5}})")
  write(tmp_path, "c.py", "ConfigDict({'schedule': {}, 'runtime': {}})")
  child = write(
    tmp_path,
    "child.py",
    "inherit('a.py', 'b.py', './c.py', model={'y': {'z': (3,)}, 'w': 2.5})",
  )
  config = config_files.load(child)
  assert config.to_dict() == {
    "model": {"x": 1, "y": {"z": (3,)}, "w": 2.5},
    "data": {"n": 5},
    "schedule": {},
    "runtime": {},
  }


def test_bases_are_found_from_the_file_that_names_them(tmp_path, monkeypatch):
  write_whole(tmp_path, "parts/base.py", {"data": {"n": 1}})
  write(tmp_path, "recipes/mid.py", "inherit('../parts/base.py')")
  write(tmp_path, "top.py", "inherit('recipes/mid.py')")
  (tmp_path / "elsewhere").mkdir()
  monkeypatch.chdir(tmp_path / "elsewhere")
  assert config_files.load("../top.py").data.n == 1


def test_delete_drops_what_was_inherited(tmp_path):
  write_whole(tmp_path, "a.py", {"model": {"head": {"dims": 4, "bias": True}}})
  child = write(
    tmp_path,
    "b.py",
    "inherit('a.py', model={'head': {'_delete_': True, 'kind': 'linear'}})",
  )
  head = config_files.load(child).model.head
  assert head.to_dict() == {"kind": "linear"}


def test_json_and_yaml_files_inherit_and_are_inherited(tmp_path):
  (tmp_path / "a.json").write_text(json.dumps(EMPTY | {"model": {"x": [1]}}))
  (tmp_path / "b.yaml").write_text("model:\n  y: 1e-3\n  z: [2, null]\n")
  child = write(tmp_path, "c.py", "inherit('a.json', 'b.yaml')")
  model = config_files.load(child).model
  assert model.to_dict() == {"x": (1,), "y": 0.001, "z": (2, None)}


def test_python_does_what_templates_do(tmp_path, monkeypatch):
  """`{{fileBasenameNoExtension}}` and `{{$VAR:default}}` of MMEngine."""
  spec = write(
    tmp_path,
    "recipe_7.py",
    """import os, pathlib
return {'model': {}, 'schedule': {}, 'runtime': {},
        'data': {'name': pathlib.Path(__file__).stem,
                 'root': os.environ.get('SSLX_TEST_ROOT', 'data')}}""",
  )
  assert config_files.load(spec).data.to_dict() == {
    "name": "recipe_7",
    "root": "data",
  }
  monkeypatch.setenv("SSLX_TEST_ROOT", "/elsewhere")
  config = config_files.load(spec)
  assert json.loads(config_lib.to_json(config))["data"]["root"] == "/elsewhere"


def test_variables_functions_and_imports_stay_out_of_the_config(tmp_path):
  spec = write(
    tmp_path,
    "a.py",
    """import math
size = 4
view = {'size': size, 'area': math.prod((size, size))}
return {'model': {}, 'schedule': {}, 'runtime': {},
        'data': {'views': (view, {**view, 'size': 2})}}""",
  )
  config = config_files.load(spec)
  assert [dict(view) for view in config.data.views] == [
    {"size": 4, "area": 16},
    {"size": 2, "area": 16},
  ]
  assert list(config) == ["model", "schedule", "runtime", "data"]


def test_siblings_that_set_one_key_are_an_error_that_names_both(tmp_path):
  write(tmp_path, "a.py", "{'data': {'n': 1, 'm': 1}}")
  write(tmp_path, "b.py", "{'data': {'n': 1, 'k': 1}}")
  child = write(tmp_path, "c.py", "inherit('a.py', 'b.py')")
  with pytest.raises(ConfigError) as error:
    config_files.load(child)
  message = str(error.value)
  assert "config.data.n is set by two bases" in message
  assert str(tmp_path / "a.py") in message
  assert str(tmp_path / "b.py") in message


@pytest.mark.parametrize(
  ("a", "b"),
  [
    ({"n": 1}, {"n": {"x": 1}}),
    ({"n": {"x": 1}}, {"n": None}),
    ({"n": ({"x": 1},)}, {"n": ({"y": 1},)}),
    ({"n": {"x": {"y": 1}}}, {"n": {"x": {"y": 2}}}),
  ],
)
def test_siblings_that_disagree_on_what_a_key_is(tmp_path, a, b):
  write(tmp_path, "a.py", repr({"data": a}))
  write(tmp_path, "b.py", repr({"data": b}))
  child = write(tmp_path, "c.py", "inherit('a.py', 'b.py')")
  with pytest.raises(ConfigError, match=r"data\.n[.xy]* is set by two bases"):
    config_files.load(child)


def test_siblings_may_inherit_one_value_from_one_file(tmp_path):
  write_whole(tmp_path, "base.py", {"data": {"n": 1, "views": [{"x": 1}]}})
  write(tmp_path, "a.py", "inherit('base.py', model={'x': 1})")
  write(tmp_path, "b.py", "inherit('base.py', model={'y': 1})")
  child = write(tmp_path, "c.py", "inherit('a.py', 'b.py')")
  assert config_files.load(child).model.to_dict() == {"x": 1, "y": 1}
  write(tmp_path, "b.py", "inherit('base.py', data={'n': 2})")
  with pytest.raises(ConfigError, match=r"data\.n is set by two bases"):
    config_files.load(child)


def test_a_cycle_is_an_error_that_names_the_files(tmp_path):
  write(tmp_path, "a.py", "inherit('b.py')")
  write(tmp_path, "b.py", "inherit('c.py')")
  write(tmp_path, "c.py", "inherit('b.py')")
  with pytest.raises(
    ConfigError, match=r"itself: \S*b.py inherits \S*c.py inh"
  ):
    config_files.load(str(tmp_path / "a.py"))


def test_a_file_may_inherit_itself_with_another_argument(tmp_path):
  spec = write(
    tmp_path, "a.py", "inherit('a.py:base', model={'n': 2}) if x else whole()"
  )
  text = (tmp_path / "a.py").read_text().replace("()", "(x='')", 1)
  text = text.replace("if x else whole()", "if not x else " + repr(EMPTY))
  (tmp_path / "a.py").write_text(text)
  assert config_files.load(spec).model.n == 2


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("inherit('no.py')", r"no\.py' does not exist"),
    ("inherit('aa.py')", r"aa\.py' does not exist\. Did you mean 'a\.py'"),
    (
      "inherit('a.py', model=3)",
      r"child\.py: config\.model: the value 3 cannot replace a group",
    ),
    ("inherit('a.py', model={'x': {'y': 1}})", "cannot replace the value 1"),
    ("inherit('a.py', data={'_delete_': True})", "config.data has _delete_"),
    ("inherit('a.py')", "no section 'data'"),
    ("inherit('a.py', modle={})", "config.modle .*Did you mean 'model'"),
    ("inherit('a.txt')", r"must be a \.py, \.json or \.yaml file"),
    ("inherit('a.py:x')", r"a\.py takes no argument, but was given 'x'"),
    ("None", r"child\.py gives None; it must be a ConfigDict"),
    ("undefined", r"child\.py, line 4: NameError: name 'undefined'"),
    ("{'model': {'items': 1}}", "'items' is a method of ConfigDict"),
    ("{'model': {'a.b': 1}}", "'a.b' is not a word"),
    ("{'model': {'f': print}}", r"config\.model\.f is .*by a string"),
    ("{'model': {'f': float('nan')}}", r"model\.f is nan; .* finite"),
    ("return 1 +", r"child\.py.*SyntaxError"),
  ],
)
def test_inherit_and_load_refuse(tmp_path, body, message):
  write(tmp_path, "a.py", "ConfigDict({'model': {'x': 1}})")
  with pytest.raises(ConfigError, match=message):
    config_files.load(write(tmp_path, "child.py", body))


def test_load_refuses_files_that_are_no_configs(tmp_path):
  with pytest.raises(ConfigError, match="does not exist"):
    config_files.load(str(tmp_path / "none.py"))
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(ConfigError, match="no function get_config"):
    config_files.load(str(tmp_path / "empty.py"))
  (tmp_path / "bad.json").write_text("{")
  with pytest.raises(ConfigError, match=r"bad\.json: JSONDecodeError"):
    config_files.load(str(tmp_path / "bad.json"))
  with pytest.raises(ConfigError, match=r"bad\.json takes no argument"):
    config_files.load(str(tmp_path / "bad.json:x"))
  with pytest.raises(ConfigError, match=r"simclr\.py'\?$"):
    config_files.load(f"{CONFIGS}/simlcr.py")
  with pytest.raises(ConfigError, match="no recipe 'cifar'; it has cifar10"):
    config_files.load(f"{CONFIGS}/simclr.py:cifar")


ARGUMENTS = """(
  kind: str = 'a', width: float | None = None, dims: tuple[int, ...] = (), n=1
):
  return {'model': {'kind': kind, 'width': width, 'dims': dims, 'n': n},
          'data': {}, 'schedule': {}, 'runtime': {}}
"""


@pytest.mark.parametrize(
  ("argument", "expected"),
  [
    ("", ("a", None, (), 1)),
    ("b", ("b", None, (), 1)),
    ("b,width=0.5", ("b", 0.5, (), 1)),
    ("b,2", ("b", 2.0, (), 1)),
    ("width=1,dims=(3,4)", ("a", 1.0, (3, 4), 1)),
    ("7,n=[1,2]", ("7", None, (), (1, 2))),
  ],
)
def test_arguments(tmp_path, argument, expected):
  (tmp_path / "a.py").write_text(f"def get_config{ARGUMENTS}")
  config = config_files.load(f"{tmp_path}/a.py:{argument}")
  assert tuple(config.model.values()) == expected


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("widht=2", r"no place for .* 'widht=2'\. Did you mean 'width'\? It takes"),
    ("a,kind=b", "no place for the argument 'kind=b'"),
    ("a,1,(1,),2,3", r"no place for the argument '3'\. It takes kind: 'str'"),
    ("width=big", r"argument width is 'big' \(str\); it must be float or None"),
    (
      "dims=3",
      r"argument dims is 3 \(int\); it must be a tuple \(int, \.\.\.\)",
    ),
  ],
)
def test_arguments_refused(tmp_path, argument, message):
  (tmp_path / "a.py").write_text(
    f"from __future__ import annotations\ndef get_config{ARGUMENTS}"
  )
  with pytest.raises(ConfigError, match=message):
    config_files.load(f"{tmp_path}/a.py:{argument}")


def test_an_entry_point_takes_a_recipe_and_a_width():
  config = settings.load(f"{CONFIGS}/simclr.py:imagenet,width=0.5")
  assert config.model.backbone.width == 0.5
  assert config.data.source == "imagenet2012"
  plain = settings.load(f"{CONFIGS}/simclr.py:imagenet")
  assert plain.model.backbone.width == 1.0


def test_an_entry_point_of_ones_own(tmp_path):
  width = {"model": {"backbone": {"width": 1.0}}}
  write_whole(tmp_path, "deep/mine.py", width)
  (tmp_path / "pick.py").write_text(
    "from sslx.config import entry\n"
    f"get_config = entry(mine='deep/mine.py', theirs='sslx:"
    f"selfsup/{SHAPES}')"
  )
  load = config_files.load
  assert load(f"{tmp_path}/pick.py") == load(f"{tmp_path}/deep/mine.py")
  assert load(f"{tmp_path}/pick.py:mine,2").model.backbone.width == 2
  shipped = load(f"{CONFIGS}/selfsup/{SHAPES}")
  assert load(f"{tmp_path}/pick.py:theirs") == shipped
  with pytest.raises(ConfigError, match="no recipe 'their'; it has mine"):
    load(f"{tmp_path}/pick.py:their")


def test_every_value_knows_the_file_or_flag_that_set_it(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_whole(
    tmp_path, "base.py", {"data": {"n": 1, "views": [{"x": 1}, {"x": 2}]}}
  )
  write(tmp_path, "mid.py", "inherit('base.py', model={'a': 1, 'b': 1})")
  write(
    tmp_path,
    "top.py",
    """config = inherit('mid.py', model={'b': 1, 'c': {'d': 1}})
config.model.e = 5
config.data.n = 2
return config""",
  )
  loaded = config_lib.read(
    "top.py", [("data.views.-1.x", "3"), ("model.+new", "dict(f=1)")]
  )
  assert loaded.origins == {
    "model.a": "mid.py",
    "model.b": "top.py",
    "model.c.d": "top.py",
    "model.e": "top.py",
    "model.new.f": "--config.model.+new=dict(f=1)",
    "data.n": "top.py",
    "data.views.0.x": "base.py",
    "data.views.1.x": "--config.data.views.-1.x=3",
    "schedule": "base.py",
    "runtime": "base.py",
  }
  loaded = config_lib.read("top.py", [("data.+k", "(1,)"), ("data.k.+", "{}")])
  assert loaded.origins["data.k.0"] == "--config.data.+k=(1,)"
  assert loaded.origins["data.k.1"] == "--config.data.k.+={}"
  assert [base.file for base in loaded.bases] == ["mid.py"]
  assert loaded.depth == 2


def test_a_config_made_without_load_inherits_all_the_same():
  """`get_config()` may be called by itself, as absl's config_flags does."""
  config = config_lib.inherit(f"{CONFIGS}/selfsup/{SHAPES}", data={"n": 3})
  assert isinstance(config, ConfigDict)
  assert config.data.n == 3


SHAPES = "simclr_resnet18-w25_1xb256-coslr-24e_shapes.py"


def test_values_of_numpy_and_paths_become_plain_ones(tmp_path):
  values = {
    "a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True),
    "d": pathlib.Path("x/y"), "e": (np.float64(1.5), "z"),
  }  # fmt: skip
  found = tree.plain(values)
  assert found == {"a": 3, "b": 0.5, "c": True, "d": "x/y", "e": (1.5, "z")}
  assert [type(x) for x in found.values()] == [int, float, bool, str, tuple]


def test_a_clash_of_bases_names_the_files_that_set_the_value(tmp_path):
  for name in ("one", "two"):
    content = repr(EMPTY | {"data": {"n": name}})
    write(tmp_path, f"{name}.py", content)
    write(tmp_path, f"{name}_child.py", f"inherit('{name}.py')")
  both = write(tmp_path, "both.py", "inherit('one_child.py', 'two_child.py')")
  with pytest.raises(ConfigError, match=r"one\.py \('one'\) and .*two\.py"):
    config_files.load(both)
