"""Flags: `--config.a.b=value`."""

import json
import sys

import pytest
from ml_collections import ConfigDict

from sslx import command, main  # noqa: F401 (main defines the flags)
from sslx import config as config_lib
from sslx.config import ConfigError, ref
from tests import config_files, tiny


def example():
  return ConfigDict(
    {
      "lr": 0.1,
      "epochs": 10,
      "flag": True,
      "text": "abc",
      "nothing": None,
      "views": ({"size": 32, "jitter": (0.1, 0.2)},),
      "milestones": (60, 80),
      "names": ("a", "b"),
      "deep": {"er": {"key": 1, "other": 2.5}},
    }
  )


@pytest.mark.parametrize(
  ("path", "text", "read", "value"),
  [
    ("lr", "1", lambda c: c.lr, 1.0),
    ("lr", "-1e-3", lambda c: c.lr, -0.001),
    ("epochs", "1e5", lambda c: c.epochs, 100000),
    ("epochs", "1_000", lambda c: c.epochs, 1000),
    ("flag", "False", lambda c: c.flag, False),
    ("flag", "false", lambda c: c.flag, False),
    ("text", "7", lambda c: c.text, "7"),
    ("text", "1e3", lambda c: c.text, "1e3"),
    ("text", "007", lambda c: c.text, "007"),
    ("text", "'007'", lambda c: c.text, "007"),
    ("text", "true", lambda c: c.text, "true"),
    ("text", "a b", lambda c: c.text, "a b"),
    ("text", "work-dirs/x:1", lambda c: c.text, "work-dirs/x:1"),
    ("nothing", "3", lambda c: c.nothing, 3),
    ("nothing", "train[:10%]", lambda c: c.nothing, "train[:10%]"),
    ("nothing", "dict(a=1)", lambda c: c.nothing.a, 1),
    ("lr", "None", lambda c: c.lr, None),
    ("lr", "null", lambda c: c.lr, None),
    ("deep", "None", lambda c: c.deep, None),
    ("deep.er.key", "2", lambda c: c.deep.er.key, 2),
    ("deep.er", "dict(key=2)", lambda c: c.deep.er.key, 2),
    ("deep.er", "dict(key=2)", lambda c: c.deep.er.other, 2.5),
    ("deep", "{'er': {'other': 3}}", lambda c: c.deep.er.other, 3.0),
    ("deep.er", "dict(_delete_=True,z=1)", lambda c: list(c.deep.er), ["z"]),
    ("deep", "dict(er=dict(_delete_=True))", lambda c: len(c.deep.er), 0),
    ("views.0.size", "16", lambda c: c.views[0].size, 16),
    ("views[0].size", "16", lambda c: c.views[0].size, 16),
    ("views[-1].size", "16", lambda c: c.views[0].size, 16),
    ("views.-1.jitter.1", "9", lambda c: c.views[0].jitter[1], 9.0),
    ("views.0.jitter", "[1,2]", lambda c: c.views[0].jitter, (1.0, 2.0)),
    ("views.0.jitter", "1,2", lambda c: c.views[0].jitter, (1.0, 2.0)),
    ("views", "[dict(size=5)]", lambda c: c.views[0].to_dict(), {"size": 5}),
    ("milestones", "[30, 50]", lambda c: c.milestones, (30, 50)),
    ("milestones", "()", lambda c: c.milestones, ()),
    ("milestones[0]", "30", lambda c: c.milestones, (30, 80)),
    ("milestones.+", "90", lambda c: c.milestones, (60, 80, 90)),
    ("views.+", "dict(size=96)", lambda c: c.views[1].size, 96),
    ("names", "[x,y,7]", lambda c: c.names, ("x", "y", "7")),
    ("deep.+new", "1", lambda c: c.deep.new, 1),
    ("views.0.+blur", "0.5", lambda c: c.views[0].blur, 0.5),
    ("deep.+a.+b", "1", lambda c: c.deep.a.b, 1),
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
    ("epoch", "1", r"To add it, write --config\.\+epoch=VALUE"),
    ("deep.er.kez", "1", r"config.deep.er.kez does not exist.*'key'"),
    (
      "epochs",
      "1.5",
      r"epochs is 1.5 \(float\); it must be int or None",
    ),
    ("epochs", "1e999", r"config.epochs is inf \(float\); it must be int"),
    ("lr", "1e999", r"config.lr is inf; numbers must be finite"),
    ("flag", "1", r"config.flag is 1 \(int\); it must be bool"),
    ("lr", "fast", r"config.lr is 'fast' \(str\); it must be float"),
    ("lr", "[1]", r"config.lr is \(1,\) \(tuple\); it must be float"),
    ("milestones", "30", r"is 30 \(int\); it must be a tuple"),
    ("milestones", "[30, 0.5]", r"milestones.1 is 0.5 \(float\); .* int"),
    ("names", "[x,y-z]", r"names is '\[x,y-z\]' \(str\); it must be a tuple"),
    ("views.3.size", "1", "no element '3'; the sequence has 1 elements"),
    ("views.3.size", "1", r"To add one, write --config\.views\.\+=VALUE"),
    ("views.first", "1", "no element 'first'"),
    ("views.0.sise", "1", r"views.0.sise does not exist.*'size'"),
    ("views.0.size", "big", r"views.0.size is 'big' \(str\); it must be int"),
    ("views.0", "dict(sise=1)", r"views.0.sise does not exist.*'size'"),
    ("deep.er", "1", r"config.deep.er is a group of keys \(key, other\)"),
    ("deep.er", "dict(kez=1)", r"config.deep.er.kez does not exist.*'key'"),
    ("deep.er", "dict(key='x')", r"deep.er.key is 'x' \(str\); .* int"),
    ("nothing", "dict(_delete_=True)", "nothing .* nothing inherited"),
    ("lr.x", "1", "'x' is not a key of the value 0.1"),
    ("+lr", "1", r"config.lr exists already; leave out the \+"),
    ("+keys", "1", "'keys' is a method of ConfigDict"),
    ("+a-b", "1", "'a-b' is not a word"),
  ],
)
def test_override_refuses(path, text, message):
  config = example()
  with pytest.raises(ConfigError, match=message):
    config_lib.override(config, path, text)
  assert config == example()


def test_a_part_of_a_reference_is_not_set_apart_from_it(tmp_path):
  spec = config_files.write_whole(
    tmp_path, "a.py", {"data": {"n": {"m": 1}, "same": ref("data.n")}}
  )
  with pytest.raises(ConfigError, match=r"data\.same\.m is part of ref\('data"):
    config_files.load(spec, [("data.same.m", "2")])
  config = config_files.load(spec, [("data.n.m", "2")])
  assert config.data.same.m == 2


def test_the_later_flag_wins():
  spec = f"{tiny.ROOT}/configs/simclr.py"
  flags = [("schedule.epochs", "3"), ("schedule.epochs", "5")]
  assert config_files.load(spec, flags).schedule.epochs == 5


def test_split_overrides_leaves_the_rest_in_order():
  overrides, rest = config_lib.split_overrides(
    ["prog", "--config.a=1", "--workdir=w", "--config=f.py", "--config.b.0=x=y"]
  )
  assert overrides == [("a", "1"), ("b.0", "x=y")]
  assert rest == ["prog", "--workdir=w", "--config=f.py"]
  with pytest.raises(ConfigError, match=r"write --config\.a=VALUE"):
    config_lib.split_overrides(["--config.a"])


def test_flags_of_main_come_in_any_order(monkeypatch):
  monkeypatch.setattr(sys, "exit", lambda message: pytest.fail(message))
  before = ["--config.schedule.epochs=3", "--config.data.views[0].size=16"]
  after = ["--config=configs/simclr.py", "--workdir=w"]
  for argv in (before + after, after + before):
    overrides = command.parse_flags(["prog", *argv])
    assert overrides == [("schedule.epochs", "3"), ("data.views[0].size", "16")]


def test_a_loaded_config_is_locked_and_typed_in_sequences_too():
  config = config_files.load(f"{tiny.ROOT}/configs/simclr.py")
  for group in (config, config.model.backbone, config.data.views[0]):
    with pytest.raises(AttributeError, match="locked"):
      group.sise = 1
  with pytest.raises(TypeError):
    config.data.views[0].size = "big"


def test_overriding_with_what_is_there_changes_nothing():
  spec = f"{tiny.ROOT}/configs/simclr.py:imagenet"
  config = config_files.load(spec)
  flags = [
    (section, repr(value))
    for section, value in json.loads(config_lib.to_json(config)).items()
  ]
  again = config_files.load(spec, flags)
  assert config_lib.to_json(again) == config_lib.to_json(config)


@pytest.mark.parametrize("text", ["-" * 50_000 + "1", "(" * 60_000 + "1"])
def test_deep_nesting_is_one_clear_error_or_a_string(text):
  try:
    assert config_lib.overrides.parse(text) == text
  except ConfigError as error:
    assert "nested too deeply" in str(error)
