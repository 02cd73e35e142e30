"""Dumps that load to an equal config, and the hash that a run is known by."""

import hashlib
import json

import hypothesis
import jax.numpy as jnp
import pytest
from etils import epath
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from sslx import config as config_lib
from sslx import metrics, settings
from sslx.checkpoint import Checkpoint, Checkpoints
from sslx.config.tree import as_config, plain
from tests import config_files, tiny

DUMPS = {
  "json": config_lib.to_json,
  "yaml": config_lib.to_yaml,
  "py": config_lib.to_python,
}
VALUES = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text()
  | st.sampled_from(
    ["1e-3", "1e5", "null", "yes", "1:30", "0x1", "~", "+1e+2"]
  ),
  lambda children: (
    st.lists(children, max_size=3).map(tuple)
    | st.dictionaries(
      st.sampled_from(["a", "b", "on", "y"]), children, max_size=3
    )
  ),
  max_leaves=15,
)


@pytest.mark.parametrize("suffix", DUMPS)
def test_any_config_dumps_and_loads_to_itself(suffix, tmp_path_factory):
  file = tmp_path_factory.mktemp("dump") / f"dump.{suffix}"

  @hypothesis.settings(max_examples=150, deadline=None)
  @hypothesis.given(VALUES)
  @hypothesis.example("\x85\u2028")  # Line ends to YAML.
  def check(value):
    empty = {"data": {}, "schedule": {}, "runtime": {}}
    tree = {"model": {"value": value}} | empty
    config = as_config(tree, final=True)
    file.write_text(DUMPS[suffix](config), encoding="utf-8")
    loaded = config_files.load(str(file))
    assert repr(plain(loaded)) == repr(tree)
    assert config_lib.fingerprint(loaded) == config_lib.fingerprint(config)

  check()


def test_the_fingerprint_is_of_the_content():
  spec = f"{tiny.ROOT}/configs/simclr.py"
  name = lambda *flags: config_lib.fingerprint(config_files.load(spec, flags))
  assert len(name()) == 16
  assert name() == name(("schedule.epochs", "200.0"))
  assert name() != name(("schedule.epochs", "201"))
  of = lambda tree: config_lib.fingerprint(as_config(tree, final=True))
  assert of({"a": 1, "b": {"c": (2,)}}) == of({"b": {"c": (2.0,)}, "a": 1.0})
  assert of({"a": 1}) != of({"a": True})
  assert of({"a": 0}) != of({"a": None})
  # A fixed value: a hash that changes between versions names nothing.
  text = b'{"a":{"b":1.5},"c":["x",null]}'
  expected = hashlib.sha256(text).hexdigest()[:16]
  assert of({"c": ("x", None), "a": {"b": 1.5}}) == expected


def test_differences_names_every_key():
  spec = f"{tiny.ROOT}/configs/simclr.py:imagenet"
  old = json.loads(config_lib.to_json(settings.load(spec)))
  flags = [("data.views.0.size", "16"), ("schedule.lr.final", "0.5")]
  new = json.loads(config_lib.to_json(settings.load(spec, flags)))
  assert config_lib.differences(old, new) == {
    "data.views.0.size": (224, 16),
    "schedule.lr.final": (0.0, 0.5),
  }
  assert config_lib.differences(old, old) == {}


def test_the_hash_is_in_the_checkpoint_and_in_every_row(tmp_path):
  config = tiny.config()
  name = config_lib.fingerprint(config)
  checkpoints = Checkpoints(tmp_path, Checkpoint(), 10, {"config": name})
  checkpoints.save(1, {"x": jnp.int32(1)}, {"next_index": 1})
  checkpoints.close()
  with ocp.training.Checkpointer(tmp_path) as orbax:
    saved = orbax.checkpointables_metadata(1)
  assert saved.custom_metadata["config"] == name

  writer = metrics.Writer(epath.Path(tmp_path), 0, name)
  writer.write(1, {"loss": 2.0})
  writer.close()
  assert metrics.read(tmp_path) == [{"step": 1, "config": name, "loss": 2.0}]
