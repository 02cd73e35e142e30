"""Foreign configs are read as data, or refused in one line."""

import pytest

from sslx.config import ConfigError
from sslx.migrate import migrate, read
from tests import foreign, recipes


def test_nothing_is_executed(tmp_path):
  mark = tmp_path / "executed"
  call = f"open({str(mark)!r}, 'w')"
  file = tmp_path / "simclr_8xb32.py"
  file.write_text(
    f"""
_base_ = "{foreign.FOLDER}/simclr_8xb32.py"
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
  found = migrate(file, recipes.SHIPPED)
  assert not mark.exists()
  assert len(found.unread) == 7
  assert found.unread[2] == f"simclr_8xb32.py, line 5: bad = {call}"
  # Of a dict, only the entry that is not data is left out.
  assert found.unread[-1] == "simclr_8xb32.py, line 10: depth = (lambda: 50)()"
  assert "not read:" in str(found)


@pytest.mark.parametrize("double", ["dict(x=a, y=a)", "[a, a]", "a + a"])
def test_values_that_double_line_by_line_are_not_read(tmp_path, double):
  (tmp_path / "a.py").write_text("a = 'a'\n" + f"a = {double}\n" * 60)
  found = read.read(tmp_path / "a.py")
  assert 40 < len(found.unread) < 55


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


BASE = f"_base_ = {str(foreign.FOLDER / 'simclr_8xb32.py')!r}\n"
BACKBONE = "model = dict(backbone=dict(_delete_=True, type={!r}))"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("model = dict(type='NPID')", "model.type is 'NPID'; there are recipes of"),
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
      "config.schedule.lr.warmup is 10.0, .*training ends at step 5",
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
def test_migrate_refuses_in_one_line(tmp_path, text, message):
  (tmp_path / "a.py").write_text(text)
  with pytest.raises(ConfigError, match=message) as refused:
    migrate(tmp_path / "a.py", recipes.SHIPPED)
  assert "\n" not in str(refused.value)
  with pytest.raises(ConfigError, match=r"no\.py cannot be read"):
    migrate(tmp_path / "no.py", recipes.SHIPPED)
