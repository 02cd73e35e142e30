"""References, and the trap that they are the cure for."""

import pytest

from sslx.config import ConfigError, ref
from sslx.config.reference import resolve
from tests import config_files


def test_what_was_derived_follows_every_later_change(tmp_path):
  config_files.write(
    tmp_path,
    "base.py",
    """return ConfigDict({
      'model': {'queue': ref('data.batch_size') * 16},
      'data': {'batch_size': 256, 'views': [
        {'size': 224, 'resize': ref('data.views.0.size') * 8 // 7},
        {'size': ref('data.views.0.size') - 128}]},
      'schedule': {'lr': 0.3 * ref('data.batch_size') / 256},
      'runtime': {},
    })""",
  )
  child = config_files.write(
    tmp_path, "child.py", "inherit('base.py', data={'batch_size': 512})"
  )

  def derived(spec, *flags):
    config = config_files.load(spec, flags)
    views = config.data.views
    return (
      config.model.queue,
      config.schedule.lr,
      views[0].resize,
      views[1].size,
    )

  base = str(tmp_path / "base.py")
  assert derived(base) == (4096, 0.3, 256, 96)
  assert derived(child) == (8192, 0.6, 256, 96)
  assert derived(child, ("data.batch_size", "1024"))[:2] == (16384, 1.2)
  assert derived(base, ("data.views.0.size", "168"))[2:] == (192, 40)
  # A flag of its own ends that.
  assert derived(base, ("model.queue", "8"), ("data.batch_size", "4"))[0] == 8


def test_the_pipeline_that_the_loader_kept(tmp_path):
  """MMSelfSup's loader keeps the old pipeline when a child changes it."""
  config_files.write(
    tmp_path,
    "base.py",
    """pipeline = [{'name': 'crop', 'size': 224}, {'name': 'flip'}]
return ConfigDict({
  'model': {}, 'schedule': {}, 'runtime': {},
  'data': {'pipeline': pipeline, 'loader': {'pipeline': ref('data.pipeline')}},
})""",
  )
  child = config_files.write(
    tmp_path,
    "child.py",
    "inherit('base.py', data={'pipeline': [{'name': 'crop', 'size': 96}]})",
  )
  config = config_files.load(child)
  assert [view.to_dict() for view in config.data.loader.pipeline] == [
    {"name": "crop", "size": 96}
  ]
  config = config_files.load(child, [("data.pipeline.0.size", "64")])
  assert config.data.loader.pipeline[0].size == 64


def test_a_copy_of_a_base_value_stays_and_may_be_changed(tmp_path):
  config_files.write_whole(
    tmp_path, "base.py", {"data": {"classes": 10, "views": [{"size": 4}]}}
  )
  child = config_files.write(
    tmp_path,
    "child.py",
    """base = inherit('base.py')
views = base.data.views
views[0].size = 8
return inherit(base, model={
  'head': {'copy': base.data.classes, 'live': ref('data.classes')},
  'views': views})""",
  )
  config = config_files.load(child, [("data.classes", "100")])
  assert config.model.head.to_dict() == {"copy": 10, "live": 100}
  assert config.model.views[0].size == 8
  assert config_files.load(str(tmp_path / "base.py")).data.views[0].size == 4


def test_arithmetic():
  n = ref("n")
  tree = {
    "n": 6,
    "m": ref("n"),
    "values": (n + 1, 1 + n, n - 1, 1 - n, n * 2, n / 4, 7 // n, n % 4, n**2),
    "deep": (ref("m") * 2 + ref("n"), ({"x": (n,)},)),
  }
  assert resolve(tree) == {
    "n": 6,
    "m": 6,
    "values": (7, 7, 5, -5, 12, 1.5, 1, 2, 36),
    "deep": (18, ({"x": (6,)},)),
  }


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    ({"a": ref("b")}, r"config\.a is ref\('b'\), but config\.b does not exist"),
    ({"a": {"bcd": 1}, "x": ref("a.bce")}, r"a\.bce .*Did you mean 'bcd'"),
    ({"a": (1,), "x": ref("a.1")}, r"config\.a\.1 does not exist"),
    ({"a": 1, "x": ref("a.b")}, r"config\.a\.b does not exist"),
    ({"a": ref("a")}, r"config\.a is ref\('a'\), a circle: a -> a"),
    ({"a": ref("b") + 1, "b": ref("a")}, "a circle: b -> a -> b"),
    ({"a": {"b": ref("a")}}, "a circle"),
    ({"a": "x", "b": ref("a") / 2}, r"config\.b is .*'x' / 2: unsupported"),
    ({"a": 0, "b": 1 / ref("a")}, r"config\.b is .*1 / 0: division by zero"),
  ],
)
def test_resolve_refuses(tree, message):
  with pytest.raises(ConfigError, match=message):
    resolve(tree)


@pytest.mark.parametrize(
  "use",
  [
    bool,
    int,
    float,
    list,
    len,
    lambda x: x == 3,
    lambda x: x > 3,
    lambda x: f"{x}",
    lambda x: {x: 1},
  ],
)
def test_a_reference_is_not_taken_for_a_value(use):
  with pytest.raises((ConfigError, TypeError), match="no value yet|unhashable"):
    use(ref("data.n") * 2)


def test_field_references_are_refused_with_the_cure(tmp_path):
  spec = config_files.write(
    tmp_path,
    "a.py",
    """config = ConfigDict({'model': {'n': 1}, 'data': {}, 'schedule': {},
                     'runtime': {}})
config.model.m = config.model.get_ref('n') * 2
return config""",
  )
  with pytest.raises(ConfigError, match=r"FieldReference.*ref\(\"data"):
    config_files.load(spec)


def test_the_sign_and_rounding_of_a_reference():
  tree = {
    "a": 2.6,
    "minus": -ref("a"),
    "whole": round(ref("a")),
    "half": round(ref("a") / 2, 1),
  }
  assert resolve(tree) == {"a": 2.6, "minus": -2.6, "whole": 3, "half": 1.3}
  assert repr(tree["half"]) == "round((ref('a') / 2), 1)"
