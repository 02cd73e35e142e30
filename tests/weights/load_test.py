"""Runs that start from other runs, and what does not fit."""

import json
import shutil
import struct

import jax
import numpy as np
import pytest

from sslx import export
from sslx.checkpoint import CheckpointError
from sslx.config import ConfigError
from sslx.methods.mocov3 import MoCoV3
from sslx.weights import files
from sslx.weights.source import InitFrom
from tests import tiny
from tests.models.vit_test import official_positions
from tests.weights import runs


@pytest.fixture(scope="module")
def simclr(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("simclr")
  return workdir, runs.save(workdir, tiny.config())


@pytest.fixture(scope="module")
def mocov3(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("mocov3")
  return workdir, runs.save(workdir, learned())


def learned(**changes):
  return tiny.vit_config(
    "mocov3", **{"model__backbone__positions": "learned"} | changes
  )


def moco(**changes):
  """MoCo v2 on the backbone of `tiny.config`, in whose head are biases."""
  config = tiny._load(
    "mocov2.py:quickstart",
    {
      "model.backbone.width": 0.125,
      "model.backbone.stem": "cifar",
      "model.projector.dims": (16, 8),
      "model.projector.norm": False,
      "model.projector.use_bias": True,
      "model.norm_groups": 1,
      "model.queue_size": 64,
      "data.batch_size": 16,
      "data.views.0.size": 16,
    },
    changes,
  )
  return config


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def changed(a, b):
  """Whether any array differs."""
  return not all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_the_same_method_takes_everything(simclr):
  workdir, state = simclr
  found, notes = runs.start(tiny.config(), str(workdir))
  assert_equal(found.params, state.params)
  assert_equal(found.model_state, state.model_state)
  assert notes[:2] == [f"weights from {workdir}", f"simclr, step {runs.STEP}"]
  for part, tree in state.params.items():
    n = len(jax.tree.leaves((tree, state.model_state[part])))
    assert f"{part}: {n} of {n} tensors" in notes


def test_a_norm_after_the_pooling_starts_anew(mocov3, tmp_path):
  workdir, state = mocov3
  pooled = {"model__backbone__features": "pooled"}
  config = learned(**pooled, model__backbone__pool_norm=True)
  out = tmp_path / "npz"
  export.main([f"--workdir={workdir}", "--to=npz", f"--out={out}"])
  for source in (str(workdir), str(out)):
    found, notes = runs.start(config, source)
    before = found.params["backbone"]
    backbone = dict(state.params["backbone"])
    for norm, tree in (("fc_norm", before), ("norm", backbone)):
      assert norm in tree
    assert_equal(
      {k: x for k, x in before.items() if k != "fc_norm"},
      {k: x for k, x in backbone.items() if k != "norm"},
    )
    assert notes[-1].startswith("fc_norm starts anew")
  # Between two such networks nothing is left out, and it does not go back.
  other = tmp_path / "pooled"
  saved = runs.save(other, config)
  found, notes = runs.start(config, str(other))
  assert_equal(found.params["backbone"], saved.params["backbone"])
  assert not any("anew" in note for note in notes)
  with pytest.raises(ConfigError, match=r"backbone/norm/scale: absent there"):
    runs.start(learned(**pooled), str(other))


def test_another_method_takes_the_backbone(simclr):
  workdir, state = simclr
  found, notes = runs.start(moco(), str(workdir))
  before, _ = runs.start(moco(), InitFrom(str(workdir), ignore=(".",)))
  assert_equal(found.params["backbone"], state.params["backbone"])
  assert_equal(found.model_state["backbone"], state.model_state["backbone"])
  assert_equal(found.params["projector"], before.params["projector"])
  kernels = [x.params["projector"]["fc1"]["kernel"] for x in (found, state)]
  assert changed(*kernels)
  assert notes[-1] == "not taken: projector"
  # The key encoder is a copy of the whole.
  assert_equal(found.aux["params"], found.params)
  assert_equal(found.aux["model_state"], found.model_state)


def test_parts_can_be_named(simclr):
  workdir, state = simclr
  source = InitFrom(str(workdir), parts=("projector",))
  found, notes = runs.start(tiny.config(), source)
  assert_equal(found.params["projector"], state.params["projector"])
  assert changed(found.params["backbone"], state.params["backbone"])
  assert notes[-1] == "not taken: backbone"
  with pytest.raises(ConfigError, match="parts has 'head'; SimCLR has"):
    runs.start(tiny.config(), InitFrom(str(workdir), parts=("head",)))


def test_a_projector_of_another_shape_is_refused_with_the_way_round(simclr):
  workdir, state = simclr
  wide = tiny.config(model__projector__dims=(16, 24))
  with pytest.raises(ConfigError) as error:
    runs.start(wide, str(workdir))
  text = str(error.value)
  name = "params/projector/fc2/kernel"
  assert f"{name}: (16, 8) there, (16, 24) in this config" in text
  assert "parts=('backbone',)" in text
  found, _ = runs.start(wide, InitFrom(str(workdir), parts=("backbone",)))
  assert_equal(found.params["backbone"], state.params["backbone"])


def test_a_backbone_that_does_not_fit_is_refused_with_names_and_shapes(simclr):
  workdir, _ = simclr
  with pytest.raises(ConfigError) as error:
    runs.start(moco(model__backbone__width=0.25), str(workdir))
  text = str(error.value)
  name = "params/backbone/conv1/kernel"
  assert f"{name}: (3, 3, 3, 8) there, (3, 3, 3, 16) in this config" in text
  with pytest.raises(ConfigError, match="layer1_0/conv3/kernel: absent there"):
    runs.start(moco(model__backbone__depth=50), str(workdir))


def test_what_is_named_keeps_its_first_values(simclr):
  workdir, state = simclr
  wide = tiny.config(model__projector__dims=(16, 24))
  source = InitFrom(str(workdir), ignore=("projector/(fc|bn)2/",))
  found, notes = runs.start(wide, source)
  there = state.params["projector"]
  assert_equal(found.params["projector"]["fc1"], there["fc1"])
  assert found.params["projector"]["fc2"]["kernel"].shape == (16, 24)
  n = len(
    jax.tree.leaves((state.params["projector"], state.model_state["projector"]))
  )
  assert f"projector: {n - 5} of {n} tensors" in notes


def test_the_teacher_can_be_taken(mocov3, simclr):
  workdir, state = mocov3
  source = InitFrom(str(workdir), what="teacher", parts=("backbone",))
  found, _ = runs.start(learned(), source)
  assert_equal(found.params["backbone"], state.aux["params"]["backbone"])
  with pytest.raises(ConfigError, match="has one network only"):
    runs.start(tiny.config(), InitFrom(str(simclr[0]), what="teacher"))


def test_by_default_the_evaluated_network_is_taken(mocov3, monkeypatch):
  workdir, state = mocov3
  monkeypatch.setattr(MoCoV3, "evaluated", "teacher")
  found, notes = runs.start(learned(), str(workdir))
  for part in MoCoV3.teachers:
    assert_equal(found.params[part], state.aux["params"][part])
    assert_equal(found.model_state[part], state.aux["model_state"][part])
  assert notes[-1] == "not taken: predictor"
  found, _ = runs.start(learned(), InitFrom(str(workdir), what="student"))
  assert_equal(found.params, state.params)


def test_what_shapes_do_not_show_is_compared(mocov3, tmp_path):
  workdir, _ = mocov3
  with pytest.raises(ConfigError, match="heads 2 there and 4 here"):
    runs.start(learned(model__backbone__heads=4), str(workdir))
  fixed = tiny.vit_config("mocov3")
  runs.save(tmp_path, fixed)
  for key, value, message in (
    ("position_order", "column", "order 'row' there and 'column' here"),
    ("image_size", 32, "image_size 16 there and 32 here"),
  ):
    other = tiny.vit_config("mocov3", **{f"model__backbone__{key}": value})
    with pytest.raises(ConfigError, match=message):
      runs.start(other, str(tmp_path))


def test_learned_positions_of_a_run_are_resized(mocov3):
  workdir, state = mocov3
  larger = learned(model__backbone__image_size=32, data__views__0__size=32)
  found, notes = runs.start(larger, str(workdir))
  assert "pos_embed resized from 4 x 4 to 8 x 8" in "\n".join(notes)
  new = np.asarray(found.params["backbone"]["pos_embed"])
  old = np.asarray(state.params["backbone"]["pos_embed"])
  assert new.shape == (1, 65, 32)
  np.testing.assert_array_equal(new[:, 0], old[:, 0])
  # Four new ones around each old one are about it.
  inner = new[0, 1:].reshape(4, 2, 4, 2, 32).mean((1, 3))
  error = np.abs(inner - old[0, 1:].reshape(4, 4, 32)).max()
  assert error < 0.5 * np.abs(old).max()


def test_a_run_that_is_not_there_is_one_error(simclr, tmp_path):
  with pytest.raises(ConfigError, match="does not exist. Give a run's workdir"):
    runs.start(tiny.config(), str(tmp_path / "none"))
  with pytest.raises(ConfigError, match="with no weights in it"):
    runs.start(tiny.config(), str(tmp_path))
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ConfigError, match="there is no .*config.json"):
    runs.start(tiny.config(), str(tmp_path))
  shutil.copy(simclr[0] / "config.json", tmp_path)
  with pytest.raises(CheckpointError, match="no checkpoint has been committed"):
    runs.start(tiny.config(), str(tmp_path))
  with pytest.raises(CheckpointError, match="of step 9; there are those of 3"):
    runs.start(tiny.config(), InitFrom(str(simclr[0]), step=9))
  (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
  with pytest.raises(ConfigError, match="step is for runs"):
    file = str(tmp_path / "w.safetensors")
    runs.start(tiny.config(), InitFrom(file, step=9))


def header(**tensors):
  text = json.dumps(tensors).encode()
  return struct.pack("<Q", len(text)) + text


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
  "data",
  [
    struct.pack("<Q", 1 << 40) + b"{}",
    struct.pack("<Q", 8) + b"{rubbish",
    header(a=TENSOR),
    header(a=TENSOR) + bytes(4),
    header(a=TENSOR | {"data_offsets": [0, 80]}) + bytes(8),
    header(a=TENSOR | {"shape": [3]}) + bytes(8),
    header(a=TENSOR | {"shape": [2**62, 4]}) + bytes(8),
    header(a=TENSOR, b=TENSOR) + bytes(8),
    header(a=TENSOR | {"dtype": "F8_E4M3", "shape": [8]}) + bytes(8),
    b"",
    b"GIF89a rubbish rubbish",
    b"PK\x03\x04 rubbish",
  ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, data):
  path = tmp_path / "w.safetensors"
  path.write_bytes(data)
  with pytest.raises(ConfigError, match=r"w\.safetensors cannot be read") as e:
    files.read(str(path))
  assert "\n" not in str(e.value)


def test_bfloat16_in_safetensors(tmp_path):
  data = header(a=TENSOR | {"dtype": "BF16", "data_offsets": [0, 4]})
  path = tmp_path / "w.safetensors"
  path.write_bytes(data + struct.pack("<HH", 0x3FC0, 0xC000))
  found = np.asarray(files.read(str(path)).content["a"]).astype(np.float32)
  np.testing.assert_array_equal(found, [1.5, -2])


def test_an_npz_of_objects_is_refused(tmp_path):
  path = tmp_path / "w.npz"
  np.savez(path, a=np.array([{"x": 1}], object))
  with pytest.raises(ConfigError, match="Object arrays cannot be loaded"):
    files.read(str(path))


SIZES = {
  "hidden_size": 64,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "image_size": 16,
  "patch_size": 4,
}
DECODER = {
  "decoder_hidden_size": 32,
  "decoder_num_attention_heads": 4,
  "decoder_num_hidden_layers": 1,
  "decoder_intermediate_size": 64,
  "mask_ratio": 0.0,
}
# Class, its config's, more settings, and what differs in ours.
MODELS = [
  ("ViTModel", "ViTConfig", {"intermediate_size": 256}, {}),
  (
    "ViTMAEForPreTraining",
    "ViTMAEConfig",
    {"intermediate_size": 256} | DECODER,
    {"positions": "sincos"},
  ),
  ("Dinov2Model", "Dinov2Config", {"mlp_ratio": 4}, {"layer_scale": 1.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "settings", "more", "changes"), MODELS)
def test_models_that_transformers_saves(tmp_path, cls, settings, more, changes):
  """Its own names and `config.json`, and features equal to its own."""
  transformers = pytest.importorskip("transformers", reason="to save a model")
  import torch

  described = getattr(transformers, settings)(**SIZES, **more)
  model = getattr(transformers, cls)(described).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      if x.requires_grad:
        centre = "norm" in name or "lambda" in name
        x.copy_(torch.randn(x.shape) * 0.1 + centre)
      elif name.endswith("position_embeddings"):
        # transformers 5 leaves them at 0; a checkpoint has them.
        x[0, 1:] = torch.tensor(official_positions(64, 4, "column"))
  model.save_pretrained(tmp_path)
  changes = {
    "width": 64,
    "heads": 4,
    "position_order": "column",
    "positions": "learned",
  } | changes
  changes = {f"model__backbone__{key}": x for key, x in changes.items()}
  config = tiny.vit_config("mocov3", **changes)
  if cls != "Dinov2Model":
    with pytest.raises(ConfigError, match="layer_norm_eps=1e-12; a ViT here"):
      runs.start(config, str(tmp_path))
  # What the user then says is true.
  for module in model.modules():
    if isinstance(module, torch.nn.LayerNorm):
      module.eps = 1e-6
  source = InitFrom(str(tmp_path), eps=1e-6)
  state, _ = runs.start(config, source)
  method, _ = runs.abstract(config)
  images = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
  images = images.astype(np.float32)
  found = jax.jit(method.encode)(state.params, state.model_state, images)["cls"]
  encoder = getattr(model, "vit", model)
  with torch.no_grad():
    output = encoder(torch.tensor(images).permute(0, 3, 1, 2))
  wanted = output.last_hidden_state[:, 0].numpy()
  assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
  with pytest.raises(ConfigError, match="attention of 4 heads"):
    two = tiny.vit_config("mocov3", **changes | {"model__backbone__heads": 2})
    runs.start(two, source)
