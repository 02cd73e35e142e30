"""Every shipped config resolves, lints, and is equal to its dumps.

That it describes a model whose state has shapes is in tests/configs_test.py.
"""

import pytest

from sslx import config as config_lib
from sslx import settings
from sslx.config import shipped
from sslx.recipes import lint
from tests import tiny

CONFIGS = tiny.ROOT / "configs"
FILES = shipped.recipes(CONFIGS)
# By name, so that no recipe is renamed without anyone noticing: a new one is
# added here. N x M of a name is free where BatchNorm is synchronised.
SELFSUP = """
barlow-twins_resnet18-w25_1xb64-coslr-24e_shapes
barlow-twins_resnet18_1xb128-coslr-200e_cifar10
barlow-twins_resnet50_16xb128-bf16-coslr-1000e_in1k
barlow-twins_resnet50_8xb256-coslr-300e_in1k
byol_resnet18-w25_1xb64-coslr-24e_shapes
byol_resnet18_1xb256-coslr-200e_cifar10
byol_resnet50_16xb256-coslr-1000e_in1k
byol_resnet50_16xb256-coslr-100e_in1k
byol_resnet50_16xb256-coslr-200e_in1k
byol_resnet50_16xb256-coslr-300e_in1k
dino_resnet50_8xb64-mcrop-2-8-bf16-coslr-100e_in1k-224-96
dino_vit-small-p16_16xb64-mcrop-2-10-coslr-800e_in1k-224-96
dino_vit-small-p16_16xb64-mcrop-2-8-bf16-coslr-300e_in1k-224-96
dino_vit-small-p16_8xb64-mcrop-2-8-bf16-coslr-100e_in1k-224-96
dino_vit-tiny-p4-w64-d4-h2_1xb64-mcrop-2-2-coslr-12e_shapes-32-16
dino_vit-tiny-p4_1xb256-mcrop-2-6-coslr-200e_cifar10-32-16
dinov2_vit-large-p16_32xb64-mcrop-2-8-bf16-coslr-125000it_in1k-224-96
dinov2_vit-tiny-p4-w64-d4-h2_1xb64-mcrop-2-2-coslr-12e_shapes-32-16
dinov2_vit-tiny-p4_1xb256-mcrop-2-6-coslr-200e_cifar10-32-16
ibot_vit-small-p16_16xb64-mcrop-2-10-bf16-coslr-800e_in1k-224-96
ibot_vit-tiny-p4-w64-d4-h2_1xb64-mcrop-2-2-coslr-12e_shapes-32-16
ibot_vit-tiny-p4_1xb256-mcrop-2-6-coslr-200e_cifar10-32-16
ijepa_vit-base-p16_16xb128-bf16-coslr-600e_in1k
ijepa_vit-huge-p14_16xb128-bf16-coslr-300e_in1k
ijepa_vit-large-p16_16xb128-bf16-coslr-600e_in1k
ijepa_vit-tiny-p4-w64-d4-h2_1xb64-coslr-12e_shapes
ijepa_vit-tiny-p4_1xb256-coslr-200e_cifar10
lejepa_resnet18-w25_1xb64-coslr-24e_shapes
lejepa_resnet18_1xb256-coslr-200e_cifar10
lejepa_resnet50_8xb64-bf16-coslr-100e_in1k
lejepa_vit-large-p14_8xb64-mcrop-2-6-bf16-coslr-100e_in1k-224-98
lejepa_vit-small-p16_8xb64-mcrop-2-6-bf16-coslr-100e_in1k-224-96
mae_vit-base-p16_8xb512-bf16-coslr-1600e_in1k
mae_vit-base-p16_8xb512-bf16-coslr-300e_in1k
mae_vit-base-p16_8xb512-bf16-coslr-400e_in1k
mae_vit-base-p16_8xb512-bf16-coslr-800e_in1k
mae_vit-huge-p14_8xb512-bf16-coslr-1600e_in1k
mae_vit-large-p16_8xb512-bf16-coslr-1600e_in1k
mae_vit-large-p16_8xb512-bf16-coslr-400e_in1k
mae_vit-large-p16_8xb512-bf16-coslr-800e_in1k
mae_vit-small-p4-h12_1xb256-coslr-200e_cifar10
mae_vit-tiny-p4-w96-d4_1xb64-coslr-24e_shapes
mocov2_resnet18-w25_2xb32-coslr-24e_shapes
mocov2_resnet18_8xb64-coslr-200e_cifar10
mocov2_resnet50_8xb32-coslr-200e_in1k
mocov2_resnet50_8xb32-coslr-800e_in1k
mocov3_resnet50_8xb512-bf16-coslr-100e_in1k
mocov3_resnet50_8xb512-bf16-coslr-300e_in1k
mocov3_vit-base-p16_16xb256-bf16-coslr-300e_in1k
mocov3_vit-small-p16-h12_16xb256-bf16-coslr-300e_in1k
mocov3_vit-tiny-p4_1xb256-coslr-200e_cifar10
mocov3_vit-tiny-p8-w96-d4_1xb256-coslr-24e_shapes
relative-loc_resnet18-w25_8xb32-coslr-8e_shapes
relative-loc_resnet18_8xb64-steplr-70e_cifar10
relative-loc_resnet50_8xb64-steplr-70e_in1k
simclr_resnet18-w25_1xb256-coslr-24e_shapes
simclr_resnet18_1xb512-coslr-200e_cifar10
simclr_resnet50_16xb256-coslr-200e_in1k
simclr_resnet50_16xb256-coslr-800e_in1k
simclr_resnet50_8xb32-coslr-200e_in1k
simsiam_resnet18-w25_1xb32-coslr-24e_shapes
simsiam_resnet18_1xb128-coslr-200e_cifar10
simsiam_resnet50_8xb32-coslr-100e_in1k
simsiam_resnet50_8xb32-coslr-200e_in1k
simsiam_resnet50_8xb64-coslr-100e_in1k
swav_resnet18-w25_1xb64-coslr-24e_shapes
swav_resnet18_1xb256-coslr-200e_cifar10
swav_resnet18_1xb256-mcrop-2-6-coslr-200e_cifar10-32-18
swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96
swav_resnet50_8xb512-mcrop-2-6-coslr-200e_in1k-224-96
vicreg_resnet18-w25_1xb64-coslr-24e_shapes
vicreg_resnet18_1xb256-coslr-200e_cifar10
vicreg_resnet50_32xb64-bf16-coslr-1000e_in1k
vicreg_resnet50_8xb64-bf16-coslr-100e_in1k
"""


def test_these_are_the_shipped_recipes():
  shipped = sorted(file.stem for file in (CONFIGS / "selfsup").glob("*.py"))
  assert shipped == sorted(SELFSUP.split()), "renamed? List it above."


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_lints_and_round_trips(file, tmp_path):
  assert list(lint.lint(file)) == []
  config = settings.load(str(file))
  dumps = {
    "a.py": config_lib.to_python,
    "a.json": config_lib.to_json,
    "a.yaml": config_lib.to_yaml,
  }
  for name, dump in dumps.items():
    (tmp_path / name).write_text(dump(config))
    again = settings.load(str(tmp_path / name))
    # Equal, types included.
    assert config_lib.to_python(again) == config_lib.to_python(config)
    assert config_lib.fingerprint(again) == config_lib.fingerprint(config)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_value_is_from_a_file_that_is_there(file, monkeypatch):
  monkeypatch.chdir(tiny.ROOT)
  loaded = config_lib.read(str(file))
  assert loaded.origins
  for path, origin in loaded.origins.items():
    assert (tiny.ROOT / origin).is_file(), (path, origin)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_copy_in_another_folder_says_the_same(file, tmp_path):
  copied = shipped.copy(file.stem, tmp_path)
  assert "_base_/" not in copied.read_text().replace("sslx:_base_/", "")
  config = settings.load(str(copied))
  assert config_lib.to_json(config) == config_lib.to_json(
    settings.load(str(file))
  )
