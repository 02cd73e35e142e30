"""Runs and weights of older versions of sslx, whose configs have old keys."""

import json

import numpy as np
import pytest
from etils import epath

from sslx import workdir as workdir_lib
from sslx.config import ConfigError, fingerprint, past
from sslx.weights import facts
from sslx.weights.run import open_run, read_config
from tests import tiny
from tests.weights import runs

STYLES = {"mae": ("xavier", "column"), "mocov3": ("xavier_qkv", "row")}


def with_style(section, style):
  old = {k: x for k, x in section.items()
         if k not in ("weight_init", "position_order")}  # fmt: skip
  return old | {"style": style}


@pytest.mark.parametrize("style", STYLES)
def test_the_style_of_an_old_vit_is_its_weights_and_positions(style, tmp_path):
  config = tiny.vit_config("mocov3" if style == "mocov3" else "mae")
  backbone = config.model.backbone
  assert (backbone.weight_init, backbone.position_order) == STYLES[style]
  path = epath.Path(tmp_path) / "run"
  state = runs.save(path, config)
  stored = json.loads((path / "config.json").read_text())
  section = stored["model"]["backbone"]
  stored["model"]["backbone"] = with_style(section, style)
  text = json.dumps(stored)
  (path / "config.json").write_text(text)

  # It can be opened, exported and started from.
  assert fingerprint(read_config(path)) == fingerprint(config)
  run = open_run(path)
  np.testing.assert_array_equal(
    run.params["backbone"]["cls_token"], state.params["backbone"]["cls_token"]
  )
  facts.check_own(json.dumps(with_style(section, style)), run.backbone, "f")
  other = run.backbone.clone(
    position_order={"row": "column", "column": "row"}[backbone.position_order]
  )
  with pytest.raises(ConfigError, match="position_order '.*' there and"):
    facts.check_own(with_style(section, style), other, "f")

  # It can go on, and is then a run of today.
  notes = []
  workdir_lib.claim(path, config, False, notes.append).release()
  assert not notes
  assert "style" not in (path / "config.json").read_text()


def test_other_keys_stay():
  stored = {"model": {"backbone": {"name": "mine", "style": "mae"}}, "data": {}}
  assert past.config(stored) == stored
  stored = {"model": {"backbone": {"name": "vit", "style": "new"}}}
  assert past.config(stored) == stored
