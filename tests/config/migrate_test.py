"""Configs in MMSelfSup's format find their recipes, and are never executed."""

import pathlib
import re

import pytest

from sslx import config as config_lib
from sslx.config import __main__ as cli
from sslx.config import mmselfsup
from sslx.config.migrate import migrate
from sslx.config.tree import leaves, plain
from tests import recipes, tiny

FOREIGN = pathlib.Path(__file__).parent / "mmselfsup" / "selfsup"
FILES = sorted(FOREIGN.glob("*.py"))


@pytest.fixture
def known():
  return recipes.SHIPPED


def test_there_is_one_of_every_method():
  assert {file.name.split("_")[0] for file in FILES} == {
    "simclr",
    "mocov2",
    "swav",
    "relative-loc",
    "mocov3",
    "mae",
  }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_finds_its_recipe(file, known):
  found = migrate(file, known)
  assert found.recipe.stem == file.stem.replace("-amp-", "-bf16-")
  assert found.unread == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_file_name_is_not_needed_for_more_than_the_gpus(
  file, known, tmp_path
):
  groups = re.search(r"_\d+xb\d+", file.stem)[0]
  text = file.read_text().replace("../_base_", f"{FOREIGN}/../_base_")
  text = text.replace('_base_ = "', f'_base_ = "{FOREIGN}/')
  renamed = tmp_path / f"mine{groups}.py"
  renamed.write_text(text)
  assert migrate(renamed, known).recipe == migrate(file, known).recipe


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_with_its_overrides_the_recipe_says_the_same(file, known, tmp_path):
  found = migrate(file, known)
  config = config_lib.load(str(found.recipe), found.overrides)
  dump = tmp_path / "dump.json"
  dump.write_text(config_lib.to_json(config))
  again = migrate(file, [dump])
  assert again.overrides == []
  assert again.absent == found.absent


def test_simclr_in_full(known):
  found = migrate(FOREIGN / "simclr_resnet50_8xb32-coslr-200e_in1k.py", known)
  assert dict(found.overrides) == {
    "runtime.checkpoint.every_epochs": "10",
    "runtime.checkpoint.keep_last": "3",
  }
  assert found.absent == {}
  assert {"visualizer", "log_level", "load_from", "resume"} <= set(found.left)
  assert "optim_wrapper.paramwise_cfg" in found.left
  grey = "train_dataloader.dataset.pipeline: RandomGrayscale"
  assert found.left[f"{grey}.channel_weights"] == (0.114, 0.587, 0.2989)
  report = str(found)
  assert "--config.runtime.checkpoint.every_epochs=10" in report
  assert "resume = False  (a run goes on by itself" in report


def test_nothing_is_left_unsaid(tmp_path, known):
  """Without the number of GPUs, and with parts that sslx does not have."""
  (tmp_path / "mine.py").write_text(
    f"""
_base_ = ["{FOREIGN}/relative-loc_resnet50_8xb64-steplr-70e_in1k.py"]
model = dict(backbone=dict(norm_cfg=dict(type="GN"), frozen_stages=4))
train_dataloader = dict(dataset=dict(pipeline=[
  dict(type="CutOut", size=3), dict(type="RandomFlip", direction="vertical")]))
param_scheduler = dict(type="PolyLR", power=2)
"""
  )
  left = migrate(tmp_path / "mine.py", known).left
  where = "train_dataloader.dataset.pipeline"
  assert left["train_dataloader.batch_size"] == 64
  assert left["model.neck.out_channels"] == 4096
  assert left["model.backbone.norm_cfg"] == {"type": "GN"}
  assert left["model.backbone.frozen_stages"] == 4
  assert left[f"{where}: CutOut"] == {"type": "CutOut", "size": 3}
  assert left[f"{where}: RandomFlip.direction"] == "vertical"
  assert left["param_scheduler"] == {"type": "PolyLR", "power": 2}


def test_what_another_method_has_of_its_own(known):
  found = migrate(
    FOREIGN / "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96.py", known
  )
  config = config_lib.load(str(found.recipe), found.overrides)
  values = dict(leaves(plain(config))) | found.absent
  assert values["schedule.optimizer.freeze_steps"] == 5005
  assert values["model.queue_size"] == 3840
  assert values["model.prototypes"] == 3000
  assert values["schedule.optimizer.name"] == "larc"  # There it is called LARS.


@pytest.mark.parametrize(
  ("name", "momentum"), [("mocov2", 0.999), ("mocov3", 0.99)]
)
def test_momentum_is_what_stays_of_the_old_weights(name, momentum, known):
  """MMEngine's 0.001 and 0.01 are what comes of the new ones."""
  (file,) = FOREIGN.glob(f"{name}_*.py")
  found = migrate(file, known)
  config = config_lib.load(str(found.recipe), found.overrides)
  values = dict(leaves(plain(config))) | found.absent
  assert values["model.momentum"] == pytest.approx(momentum)


def test_changes_become_overrides(tmp_path, known):
  file = tmp_path / "simclr_resnet18_8xb64-coslr-100e_cifar10.py"
  file.write_text(
    f"""
_base_ = ["{FOREIGN}/simclr_resnet50_8xb32-coslr-200e_in1k.py"]
epochs = 100
model = dict(head=dict(temperature=0.5), neck=dict(hid_channels=512))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="SGD", lr=1.2))
train_cfg = dict(max_epochs=epochs)
"""
  )
  found = migrate(file, known)
  assert found.recipe.name.startswith("simclr_resnet50")
  overrides = dict(found.overrides)
  assert overrides["model.temperature"] == "0.5"
  assert overrides["model.projector.dims"] == "(512, 128)"
  assert overrides["data.batch_size"] == "512"
  assert overrides["schedule.optimizer.name"] == "sgd"
  assert overrides["schedule.optimizer.lr"] == "0.6"  # x 512 / 256
  assert overrides["schedule.epochs"] == "100"
  config = config_lib.load(str(found.recipe), found.overrides)
  assert config.data.batch_size == 512


def test_nothing_is_executed(tmp_path, known):
  mark = tmp_path / "executed"
  call = f"open({str(mark)!r}, 'w')"
  (tmp_path / "simclr_8xb32.py").write_text(
    f"""
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
  found = migrate(tmp_path / "simclr_8xb32.py", known)
  assert not mark.exists()
  assert len(found.unread) == 7
  assert found.unread[2] == f"simclr_8xb32.py, line 4: bad = {call}"
  # Of a dict, only the entry that is not data is left out.
  assert found.unread[-1] == "simclr_8xb32.py, line 9: depth = (lambda: 50)()"
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
  read = mmselfsup.read(tmp_path / "child.py")
  assert read.values == {
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
  assert read.helpers == {"views", "a"}
  assert [text.split(": ", 1)[1] for text in read.unread] == [
    "d = [*()] if 0 else 1"
  ]


def test_bases_that_are_not_there_are_said_to_be_missing(tmp_path, known):
  file = tmp_path / "mocov2_resnet50_8xb32-coslr-200e_in1k.py"
  file.write_text("_base_ = ['../_base_/models/mocov2.py']\n"
                  "train_cfg = dict(max_epochs=200)\n")  # fmt: skip
  found = migrate(file, known)
  assert found.recipe.stem == file.stem  # Its own name says the rest.
  assert found.unread == [
    "_base_ '../_base_/models/mocov2.py': there is no such file"
  ]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("model = dict(type='BYOL')", "is of method 'byol'; there are recipes of"),
    ("model = dict(", "cannot be read: .*never closed"),
    ("_base_ = 'a.py'", "inherits itself"),
    ("_base_ = name", "cannot be read: malformed"),
    (
      "model = dict(type='SimCLR')\nparam_scheduler = ['x']",
      "not in MMSelfSup",
    ),
  ],
)
def test_migrate_refuses(tmp_path, known, text, message):
  (tmp_path / "a.py").write_text(text)
  with pytest.raises(config_lib.ConfigError, match=message):
    migrate(tmp_path / "a.py", known)
  with pytest.raises(config_lib.ConfigError, match=r"no\.py cannot be read"):
    migrate(tmp_path / "no.py", known)


def test_the_command(monkeypatch, capsys):
  monkeypatch.chdir(tiny.ROOT)
  name = "simclr_resnet50_16xb256-coslr-800e_in1k.py"
  assert cli.main(["migrate", str(FOREIGN / name)]) == 0
  out = capsys.readouterr().out
  assert out.startswith(f"nearest recipe: configs/selfsup/{name}\n")
  assert "no counterpart:" in out
