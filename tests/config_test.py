"""Inheritance, overrides and typed settings."""

import dataclasses
import json
import pathlib
from typing import Literal

import pytest
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx.config import ConfigError
from tests import tiny

CONFIGS = tiny.ROOT / "configs"
RECIPES = sorted((CONFIGS / "selfsup").glob("*.py"))


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
  count: int
  kind: Literal["a", "b"] = "a"
  rate: float = 1.0
  name: str = "x"
  pair: tuple[float, float] = (0.0, 1.0)
  limit: float | None = None
  inner: Inner | None = None

  def __post_init__(self):
    if self.count < 0:
      raise ValueError(f"count is {self.count}; it must not be negative.")


def test_build_converts_what_loses_nothing():
  built = config_lib.build(
    Settings,
    {"count": 3.0, "rate": 2, "pair": [1, 2], "inner": {"rate": 1}},
    "s",
  )
  assert built == Settings(3, rate=2.0, pair=(1.0, 2.0), inner=Inner(1.0))
  assert isinstance(built.count, int)
  assert isinstance(built.inner.rate, float)


@pytest.mark.parametrize(
  ("section", "message"),
  [
    ({"count": 1, "rte": 2}, r"s\.rte does not exist\. Did you mean 'rate'"),
    ({}, r"s\.count is missing; it must be int"),
    ({"count": 1.5}, r"s\.count is 1\.5 \(float\); it must be int"),
    ({"count": True}, r"s\.count is True \(bool\)"),
    ({"count": 1, "kind": "c"}, r"s\.kind is 'c' .* one of 'a', 'b'"),
    ({"count": 1, "pair": (1,)}, r"s\.pair is \(1,\) .* a tuple"),
    ({"count": 1, "limit": "no"}, r"s\.limit is 'no' .*float or None"),
    ({"count": 1, "inner": {"rat": 1}}, r"s\.inner\.rat does not exist"),
    ({"count": -1}, r"s: count is -1; it must not be negative"),
  ],
)
def test_build_refuses_with_key_value_and_what_is_accepted(section, message):
  with pytest.raises(ConfigError, match=message):
    config_lib.build(Settings, section, "s")


def example():
  return ConfigDict(
    {
      "lr": 0.1,
      "epochs": 10,
      "flag": True,
      "text": "abc",
      "nothing": None,
      "views": ({"size": 32, "jitter": (0.1, 0.2)},),
      "deep": {"er": {"key": 1}},
    }
  )


@pytest.mark.parametrize(
  ("path", "text", "read", "value"),
  [
    ("lr", "1", lambda c: c.lr, 1.0),
    ("epochs", "1e5", lambda c: c.epochs, 100000),
    ("flag", "False", lambda c: c.flag, False),
    ("text", "7", lambda c: c.text, "7"),
    ("text", "a b", lambda c: c.text, "a b"),
    ("nothing", "3", lambda c: c.nothing, 3),
    ("lr", "None", lambda c: c.lr, None),
    ("deep.er.key", "2", lambda c: c.deep.er.key, 2),
    ("views.0.size", "16", lambda c: c.views[0]["size"], 16),
    ("views[0].size", "16", lambda c: c.views[0]["size"], 16),
    ("views.-1.jitter.1", "9", lambda c: c.views[0]["jitter"][1], 9.0),
    ("views.0.jitter", "[1,2]", lambda c: c.views[0]["jitter"], (1, 2)),
  ],
)
def test_override(path, text, read, value):
  config = example()
  config_lib.override(config, path, text)
  assert read(config) == value
  assert type(read(config)) is type(value)


@pytest.mark.parametrize(
  ("path", "text", "message"),
  [
    ("epoch", "1", "config.epoch does not exist. Did you mean 'epochs'"),
    ("deep.er.kez", "1", r"config.deep.er.kez does not exist.*'key'"),
    ("epochs", "1.5", r"config.epochs is 1.5 \(float\); it must be int"),
    ("epochs", "1e999", r"config.epochs is inf \(float\); it must be int"),
    ("flag", "1", r"config.flag is 1 \(int\); it must be bool"),
    ("lr", "fast", r"config.lr is 'fast' \(str\); it must be float"),
    ("views.3.size", "1", "no element '3'; the sequence has 1 elements"),
    ("views.0.sise", "1", r"views.0.sise does not exist.*'size'"),
    ("deep.er", "1", r"config.deep.er is a group of keys \(key\)"),
    ("lr.x", "1", "'x' is not a key of the value 0.1"),
  ],
)
def test_override_refuses(path, text, message):
  with pytest.raises(ConfigError, match=message):
    config_lib.override(example(), path, text)


def test_split_overrides_leaves_the_rest_in_order():
  overrides, rest = config_lib.split_overrides(
    ["prog", "--config.a=1", "--workdir=w", "--config=f.py", "--config.b.0=x=y"]
  )
  assert overrides == [("a", "1"), ("b.0", "x=y")]
  assert rest == ["prog", "--workdir=w", "--config=f.py"]
  with pytest.raises(ConfigError, match=r"write --config\.a=VALUE"):
    config_lib.split_overrides(["--config.a"])


def write(folder: pathlib.Path, name: str, body: str) -> str:
  (folder / name).write_text(
    "from ml_collections import ConfigDict\n"
    "from sslx.config import inherit\n"
    f"def get_config():\n  return {body}\n"
  )
  return str(folder / name)


def test_inherit_merges_groups_and_replaces_values(tmp_path):
  write(tmp_path, "a.py", "ConfigDict({'model': {'x': 1, 'y': {'z': (1, 2)}}})")
  write(tmp_path, "b.py", "ConfigDict({'data': {'n': 5}})")
  write(tmp_path, "c.py", "ConfigDict({'schedule': {}, 'runtime': {}})")
  child = write(
    tmp_path,
    "child.py",
    "inherit('a.py', 'b.py', './c.py', model={'y': {'z': (3,)}, 'w': 2.5})",
  )
  config = config_lib.load(child)
  assert config.to_dict() == {
    "model": {"x": 1, "y": {"z": (3,)}, "w": 2.5},
    "data": {"n": 5},
    "schedule": {},
    "runtime": {},
  }


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("inherit('no.py')", r"no\.py' does not exist"),
    ("inherit('a.py', model=3)", "the value 3 cannot replace a group"),
    ("inherit('a.py', model={'x': {'y': 1}})", "cannot replace the value 1"),
    ("inherit('a.py')", "no section 'data'"),
    ("inherit('a.py', modle={})", "config.modle .*Did you mean 'model'"),
  ],
)
def test_inherit_and_load_refuse(tmp_path, body, message):
  write(tmp_path, "a.py", "ConfigDict({'model': {'x': 1}})")
  with pytest.raises(ConfigError, match=message):
    config_lib.load(write(tmp_path, "child.py", body))


def test_load_refuses_files_that_are_no_configs(tmp_path):
  with pytest.raises(ConfigError, match="does not exist"):
    config_lib.load(str(tmp_path / "none.py"))
  (tmp_path / "empty.py").write_text("")
  with pytest.raises(ConfigError, match="no function get_config"):
    config_lib.load(str(tmp_path / "empty.py"))
  with pytest.raises(ConfigError, match="takes no argument, .* 'x'"):
    config_lib.load(f"{RECIPES[0]}:x")
  with pytest.raises(ConfigError, match="no recipe 'cifar'; it has cifar10"):
    config_lib.load(f"{CONFIGS}/simclr.py:cifar")


def test_differences_names_every_key():
  old = json.loads(config_lib.to_json(example()))
  new_config = example()
  config_lib.override(new_config, "views.0.size", "16")
  config_lib.override(new_config, "deep.er.key", "5")
  new = json.loads(config_lib.to_json(new_config))
  assert config_lib.differences(old, new) == {
    "views.0.size": (32, 16),
    "deep.er.key": (1, 5),
  }
  assert config_lib.differences(old, old) == {}
