"""Names of recipes tell the truth, in all shapes that are to come."""

import re
import shutil

import pytest

from sslx import config as config_lib
from sslx import settings
from sslx.config import shipped
from sslx.config.tree import as_config
from sslx.evaluate import trained
from sslx.recipes import lint, names
from tests import recipes, tiny
from tests.config_files import write


def content(stem):
  return as_config(recipes.CONTENTS[stem], final=True)


@pytest.mark.parametrize("stem", recipes.CONTENTS)
def test_the_convention_expresses_the_recipes(stem):
  config = content(stem)
  assert names.check(stem, config) == []
  groups = int(re.search(r"_(\d+)xb", stem)[1])
  assert names.full_name(config, groups) == stem


def test_a_config_built_in_python_may_hold_plain_dicts():
  config = content(SWAV)
  with config.unlocked():
    config.data.views = tuple(view.to_dict() for view in config.data.views)
  assert names.full_name(config, 8) == SWAV


MOCO = "mocov2_resnet50_8xb32-coslr-200e_in1k"
SWAV = "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96"
MAE = "mae_vit-base-p16_8xb512-bf16-coslr-800e_in1k"


PROTOCOLS = sorted(
  path.stem for path in (tiny.ROOT / "configs/benchmarks").glob("*.py")
)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("linear", "ft", "task: the name has 'ft', but .*method makes it 'linear'"),
    ("steplr", "coslr", "schedule: the name has 'coslr', .* 'steplr'"),
    ("_linear-", "_", "it would be 'resnet50_linear-1xb256-steplr-100e_in1k'"),
    ("in1k", "in1pct", "data: the name has 'in1pct', .* makes it 'in1k'"),
  ],
)
def test_the_names_of_protocols_tell_the_truth(old, new, message):
  stem = "resnet50_linear-moco-8xb32-steplr-100e_in1k"
  config = settings.load(f"sslx:benchmarks/{stem}.py")
  assert names.check(stem, config) == []
  (wrong,) = names.check(stem.replace(old, new), config)
  assert re.search(message, wrong), wrong


def test_every_protocol_has_a_config_and_every_config_a_protocol():
  files = [protocol.file for protocol in trained.PROTOCOLS.values()]
  assert sorted(files) == PROTOCOLS
  for name, protocol in trained.PROTOCOLS.items():
    assert f"_{name}-" in protocol.file


@pytest.mark.parametrize(
  ("stem", "old", "new", "message"),
  [
    (
      MOCO,
      "mocov2",
      "mocov3",
      "algorithm: .*'mocov3', but config.model.method",
    ),
    (MOCO, "mocov2", "simclr", "makes it 'mocov2'"),
    (
      MOCO,
      "resnet50",
      "resnet18",
      "module: .*model.backbone makes it 'resnet50",
    ),
    (MOCO, "8xb32", "8xb64", "batch: .*512 in all, .*batch_size is 256"),
    (MOCO, "8xb32", "16xb16", "norm_groups is 8; it must be 16, or 1"),
    (MOCO, "coslr", "steplr", "schedule: the name has 'steplr', .* 'coslr'"),
    (
      MOCO,
      "200e",
      "800e",
      "length: the name has '800e', .*config.schedule .*'200e'",
    ),
    (MOCO, "-coslr", "-accum16-coslr", "accumulation: .*'accum16'.* nothing"),
    (MOCO, "-coslr", "-bf16-coslr", "dtype: the name has 'bf16'.*it nothing"),
    (
      MOCO,
      "-coslr",
      "-mcrop-2-6-coslr",
      "crops: .*data.views makes it nothing",
    ),
    (MOCO, "in1k", "cifar10", "data: the name has 'cifar10', .* 'in1k'"),
    (MOCO, "in1k", "in1k-384", "data: the name has 'in1k-384'"),
    (SWAV, "mcrop-2-6-", "", "crops: the name has nothing, .* 'mcrop-2-6'"),
    (SWAV, "2-6", "2-4", "'mcrop-2-4', .* 'mcrop-2-6'"),
    (SWAV, "-224-96", "", "data: the name has 'in1k', .* 'in1k-224-96'"),
    (SWAV, "224-96", "96-224", "'in1k-96-224', .* 'in1k-224-96'"),
    (MAE, "-bf16", "", "dtype: the name has nothing, .*model.dtype .*'bf16'"),
    (MAE, "base", "large", "'vit-large-p16', .* 'vit-base-p16'"),
    (MAE, "p16", "p14", "'vit-base-p14'"),
    (MOCO, "_in1k", "-in1k", "not of the form .* it would be 'mocov2_resnet50"),
    (MOCO, "-200e", "", "not of the form"),
    (MOCO, "8xb32-", "", "not of the form"),
    (MOCO, "in1k", "in1k_v2", "not of the form"),
    (MOCO, "mocov2", "MoCoV2", "not of the form"),
  ],
)
def test_a_name_that_lies_is_told_so(stem, old, new, message):
  wrong = names.check(stem.replace(old, new), content(stem))
  assert wrong
  assert re.search(message, "\n".join(wrong)), wrong


@pytest.mark.parametrize(
  ("key", "value", "part"),
  [
    ("model.method", "mocov3", "algorithm"),
    ("model.backbone.depth", "101", "module"),
    ("model.norm_groups", "4", "batch"),
    ("model.dtype", "bfloat16", "dtype"),
    ("data.batch_size", "512", "batch"),
    ("data.source", "cifar10", "data"),
    ("data.views.0.size", "192", "data"),
    ("data.views.+", "dict(size=96,count=6)", "crops"),
    ("schedule.epochs", "100", "length"),
    ("schedule.lr.kind", "step", "schedule"),
    ("schedule.+accumulate", "4", "accumulation"),
  ],
)
def test_every_part_is_held_against_the_content(key, value, part):
  config = content(MOCO)
  assert names.check(MOCO, config) == []
  config_lib.override(config, key, value)
  assert any(x.startswith(part) for x in names.check(MOCO, config))


def test_synchronised_batch_norm_fits_any_split():
  config = content(MOCO)
  config_lib.override(config, "model.norm_groups", "1")
  for batch in ("1xb256", "8xb32", "16xb16"):
    assert names.check(MOCO.replace("8xb32", batch), config) == []


@pytest.mark.parametrize("file", recipes.SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_recipe_renamed_word_by_word_is_an_error(file):
  config = settings.load(str(file))
  words = re.findall(r"[a-z0-9]+", file.stem)
  for i, word in enumerate(words):
    for other in (word + "x", re.sub(r"\d+", lambda m: f"1{m[0]}", word), ""):
      if other != word:
        renamed = file.stem.replace(word, other)
        assert names.check(renamed, config), (i, renamed)


@pytest.mark.parametrize("file", recipes.SHIPPED, ids=lambda file: file.stem)
def test_lint_finds_a_renamed_file(file, tmp_path):
  shutil.copytree(tiny.ROOT / "configs", tmp_path / "configs")
  copy = tmp_path / "configs" / "selfsup" / file.name
  assert list(lint.lint(copy)) == []
  length = re.search(r"\d+(e|it|img)(?=_)", file.name)[0]
  renamed = copy.rename(copy.with_name(file.name.replace(length, f"9{length}")))
  (message,) = lint.lint(renamed)
  assert f"'9{length}', but config.schedule makes it" in message
  # Or one that inherits from it, or the entry point, misses it.
  broken = [list(lint.lint(f)) for f in shipped.recipes(tmp_path / "configs")]
  assert sum(map(bool, broken)) >= 1


def test_lint_warns_of_deep_inheritance(tmp_path):
  whole = settings.load(f"{tiny.ROOT}/configs/selfsup/{MOCO}.py")
  (tmp_path / "d0.py").write_text(config_lib.to_python(whole))
  for i in range(1, 6):
    write(tmp_path, f"d{i}.py", f"inherit('d{i - 1}.py')")
  (tmp_path / "_base_").mkdir()  # Their names are free.
  found = {i: list(lint.lint(tmp_path / f"d{i}.py")) for i in range(6)}
  assert found[3] == []
  (message,) = found[4]
  assert message.startswith("warning: inherits 4 deep, more than 3: ")
  assert re.search(r"d4\.py -> .*d3\.py -> .*d0\.py", message)


def test_lint_reports_what_does_not_load(tmp_path):
  write(tmp_path, "a.py", "inherit('b.py')")
  (message,) = lint.lint(tmp_path / "a.py")
  assert "b.py' does not exist" in message
  write(tmp_path, f"{MOCO}.py", "{'model': {}, 'data': {}, 'schedule': {},"
        " 'runtime': {}}")  # fmt: skip
  (message,) = lint.lint(tmp_path / f"{MOCO}.py")
  assert "config.data.source is missing" in message


@pytest.mark.parametrize(
  ("recipe", "changes", "true"),
  [
    ("mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k", {"depth": 2}, "-d2"),
    (
      "mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k",
      {"width": 64, "depth": 2, "heads": 4},
      "-w64-d2-h4",
    ),
    ("simclr_resnet50_8xb32-coslr-200e_in1k", {"width": 0.25}, "-w25"),
    ("simclr_resnet50_8xb32-coslr-200e_in1k", {"width": 2.0}, "-w200"),
  ],
)
def test_width_depth_and_heads_are_part_of_the_name(recipe, changes, true):
  config = settings.load(
    f"{tiny.ROOT}/configs/selfsup/{recipe}.py",
    [(f"model.backbone.{key}", str(value)) for key, value in changes.items()],
  )
  (message,) = names.check(recipe, config)
  module = recipe.split("_")[1]
  assert f"the name has {module!r}, but" in message
  assert f"makes it {module + true!r}" in message
  assert names.check(recipe.replace(module, module + true), config) == []


def test_a_full_name_beside_the_parts_is_held_to_it(tmp_path):
  (tmp_path / "_base_").mkdir()
  recipe = f"{tiny.ROOT}/configs/selfsup/{MOCO}.py"
  write(tmp_path, "mine.py", f"inherit({recipe!r}, schedule={{'epochs': 7}})")
  assert list(lint.lint(tmp_path / "mine.py")) == []
  write(
    tmp_path, f"{MOCO}.py", f"inherit({recipe!r}, schedule={{'epochs': 7}})"
  )
  (message,) = lint.lint(tmp_path / f"{MOCO}.py")
  assert "length: the name has" in message
