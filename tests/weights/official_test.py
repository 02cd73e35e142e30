"""Checkpoints of others, by their official names and shapes."""

import functools

import jax
import numpy as np
import pytest

from sslx.config import ConfigError
from sslx.weights.source import InitFrom
from tests import tiny
from tests.models.vit_test import official_positions
from tests.weights import official, runs, torch_files


def sincos(order, width=384, cls=True):
  """Fixed positions of 14 x 14 patches, f32[1, n, width]."""
  first = np.zeros((int(cls), width), np.float32)
  return np.concatenate([first, official_positions(width, 14, order)])[None]


def resnet(**changes):
  return runs.resnet(50, **changes)


def vit(**changes):
  """MoCo v3 on a ViT-S of 224 px; positions are learned."""
  usual = {
    "width": None,
    "variant": "small",
    "depth": None,
    "heads": 6,
    "patch_size": 16,
    "image_size": 224,
    "positions": "learned",
  }
  made = {f"model__backbone__{key}": x for key, x in (usual | changes).items()}
  return tiny.vit_config("mocov3", data__views__0__size=224, **made)


fixed = functools.partial(vit, positions="sincos")
base = functools.partial(fixed, variant="base", heads=12)

# Name: (content, config, positions of the file, prefix of the network's names).
CASES = {
  "mocov1": (official.mocov1(), resnet, None, "module.encoder_q."),
  "mocov2": (official.mocov2(), resnet, None, "module.encoder_q."),
  "mocov3_resnet": (
    official.mocov3_resnet(),
    resnet,
    None,
    "module.base_encoder.",
  ),
  "mocov3_vit": (
    official.mocov3_vit(),
    functools.partial(fixed, position_order="row", heads=12),
    sincos("row"),
    "module.base_encoder.",
  ),
  "swav": (official.swav(), resnet, None, "module."),
  "mae": (
    official.mae(),
    functools.partial(base, position_order="column"),
    sincos("column", 768),
    "",
  ),
  "mae_full": (
    official.mae_full(),
    functools.partial(base, position_order="column"),
    sincos("column", 768),
    "",
  ),
  "dino": (official.dino(), vit, None, ""),
  "dino_full": (official.dino_full(), vit, None, "backbone."),
  "dino_new_torch": (official.dino_full(True), vit, None, "backbone."),
  "ibot": (official.ibot(), vit, None, ""),
  "ibot_full": (official.ibot_full(), vit, None, "backbone."),
  "dinov2": (
    official.dinov2(),
    functools.partial(vit, patch_size=14, image_size=518, layer_scale=1e-5),
    None,
    "",
  ),
  "dinov2_training": (
    official.dinov2_training(),
    functools.partial(vit, patch_size=14, image_size=518, layer_scale=1e-5),
    None,
    "backbone.",
  ),
  "barlow": (official.barlow(), resnet, None, ""),
  "barlow_training": (
    official.barlow_training(),
    resnet,
    None,
    "module.backbone.",
  ),
  "vicreg": (official.vicreg(), resnet, None, "module.backbone."),
  "simsiam": (official.simsiam(), resnet, None, "module.encoder."),
  "msn": (official.msn(), vit, None, "module."),
  "ijepa": (
    official.ijepa(),
    functools.partial(
      fixed, position_order="column", class_token=False, features="pooled"
    ),
    sincos("column", cls=False),
    "module.",
  ),
  "openmmlab_resnet": (official.openmmlab_resnet(), resnet, None, "backbone."),
  "openmmlab_vit": (
    official.openmmlab_vit(),
    functools.partial(
      base, position_order="row"
    ),  # Its MAE has this order too.
    sincos("row", 768),
    None,
  ),
  "solo_learn": (
    official.solo_learn(),
    functools.partial(resnet, model__backbone__stem="cifar"),
    None,
    "backbone.",
  ),
  "lightly": (official.lightly_sequential(), resnet, None, None),
  "torchvision": (official.torchvision_resnet(), resnet, None, ""),
}


def file_of(tmp_path, name):
  content, config, positions, prefix = CASES[name]
  path = torch_files.save(tmp_path / f"{name}.pth.tar", content, positions)
  return path, config, prefix


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_official_checkpoints_are_read_whole(tmp_path, name):
  path, config, prefix = file_of(tmp_path, name)
  config = config()
  state, notes = runs.start(config, path)
  backbone = state.params["backbone"]
  arrays = len(jax.tree.leaves((backbone, state.model_state["backbone"])))
  assert f"backbone: {arrays} of {arrays} tensors" in "\n".join(notes)
  if prefix is None:  # Under names of its own.
    return
  read = lambda name, *shape: torch_files.numbers(f"{prefix}{name}", shape)
  if config.model.backbone.name == "resnet":
    np.testing.assert_array_equal(
      backbone["layer2_1"]["conv3"]["kernel"][0, 0],
      read("layer2.1.conv3.weight", 512, 128, 1, 1)[..., 0, 0].T,
    )
    kernel = backbone["layer3_5"]["conv2"]["kernel"]
    np.testing.assert_array_equal(
      kernel[2, 0], read("layer3.5.conv2.weight", 256, 256, 3, 3)[..., 2, 0].T
    )
    np.testing.assert_array_equal(
      state.model_state["backbone"]["layer4_0"]["downsample_bn"]["var"],
      read("layer4.0.downsample.1.running_var", 2048),
    )
    return
  width = backbone["norm"]["scale"].shape[0]
  heads = config.model.backbone.heads
  chunk = "2." if name == "dinov2_training" else ""
  block = f"blocks.{chunk}7"
  qkv = read(f"{block}.attn.qkv.weight", 3 * width, width)
  kernel = backbone["blocks_7"]["attn"]["qkv"]["kernel"]
  head_width = width // heads
  for i, head in ((0, 1), (1, 0), (2, heads - 1)):
    start = i * width + head * head_width
    np.testing.assert_array_equal(
      kernel[:, i, head], qkv[start : start + head_width].T
    )
  patch = config.model.backbone.patch_size
  weight = read("patch_embed.proj.weight", width, 3, patch, patch)
  kernel = backbone["patch_embed"]["proj"]["kernel"]
  row, column, channel = 3, 1, 2
  np.testing.assert_array_equal(
    kernel[(row * patch + column) * 3 + channel],
    weight[:, channel, row, column],
  )
  np.testing.assert_array_equal(
    backbone["blocks_7"]["mlp"]["fc1"]["kernel"],
    read(f"{block}.mlp.fc1.weight", 4 * width, width).T,
  )
  if "pos_embed" in backbone:
    shape = backbone["pos_embed"].shape
    np.testing.assert_array_equal(
      backbone["pos_embed"], read("pos_embed", *shape)
    )


def test_registers_and_swiglu_of_dinov2(tmp_path):
  path = torch_files.save(tmp_path / "g.pth", official.dinov2_giant())
  changes = {"patch_size": 14, "image_size": 518, "layer_scale": 1e-5}
  config = vit(**changes, registers=4, mlp="swiglu")
  state, notes = runs.start(config, path)
  backbone = state.params["backbone"]
  arrays = len(jax.tree.leaves(backbone))
  assert f"backbone: {arrays} of {arrays} tensors" in "\n".join(notes)
  read = torch_files.numbers
  np.testing.assert_array_equal(
    backbone["reg_token"], read("register_tokens", (1, 4, 384))
  )
  np.testing.assert_array_equal(
    backbone["pos_embed"], read("pos_embed", (1, 1370, 384))
  )
  mlp = backbone["blocks_7"]["mlp"]
  weight = read("blocks.7.mlp.w12.weight", (2048, 384))
  np.testing.assert_array_equal(mlp["w12"]["kernel"][:, 0], weight[:1024].T)
  np.testing.assert_array_equal(mlp["w12"]["kernel"][:, 1], weight[1024:].T)
  np.testing.assert_array_equal(
    mlp["w3"]["kernel"], read("blocks.7.mlp.w3.weight", (384, 1024)).T
  )


@pytest.mark.parametrize(
  ("name", "what", "prefix"),
  [
    ("mocov2", "teacher", "module.encoder_k."),
    ("mocov3_resnet", "teacher", "module.momentum_encoder."),
  ],
)
def test_the_other_network_can_be_asked_for(tmp_path, name, what, prefix):
  path, config, _ = file_of(tmp_path, name)
  state, notes = runs.start(config(), InitFrom(path, what=what))
  np.testing.assert_array_equal(
    state.params["backbone"]["conv1"]["kernel"][3, 4],
    torch_files.numbers(f"{prefix}conv1.weight", (64, 3, 7, 7))[..., 3, 4].T,
  )
  assert ", its teacher" in notes[1]


def test_what_is_left_out_is_told(tmp_path):
  path, config, _ = file_of(tmp_path, "mocov2")
  _, notes = runs.start(config(), path)
  assert "layout: MoCo v1 or v2, its student" in notes
  (left,) = [note for note in notes if note.startswith("left out")]
  for part in ("queue (1)", "queue_ptr (1)", "encoder_q.fc (4)"):
    assert part in left


def test_there_is_no_other_network(tmp_path):
  path, config, _ = file_of(tmp_path, "simsiam")
  with pytest.raises(ConfigError, match="has no teacher; it has a student"):
    runs.start(config(), InitFrom(path, what="teacher"))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"layer4.2.conv3.weight": None},
      "conv3.weight: absent there",
    ),
    ({"extra.weight": (3, 3)}, r"extra.weight: \(3, 3\) there, absent in this"),
    (
      {"conv1.weight": (64, 1, 7, 7)},
      r"\(64, 1, 7, 7\) there, \(64, 3",
    ),
  ],
)
def test_what_is_missing_or_left_over_is_an_error_unless_named(
  tmp_path, change, message
):
  content = official.resnet50()
  for name, shape in change.items():
    content.pop(name, None)
    if shape:
      content[name] = shape
  path = torch_files.save(tmp_path / "r.pth", content)
  with pytest.raises(ConfigError, match=message):
    runs.start(resnet(), path)
  (name,) = change
  found, notes = runs.start(resnet(), InitFrom(path, ignore=(f"^{name}$",)))
  total = len(jax.tree.leaves(found.model_state["backbone"]))
  total += len(jax.tree.leaves(found.params["backbone"]))
  got = total - (name != "extra.weight")
  assert f"backbone: {got} of {total} tensors" in "\n".join(notes)


def small_vit(tmp_path, content=None, positions=None, name="v.pth"):
  path = tmp_path / name
  return torch_files.save(path, content or official.dino(), positions)


def test_heads_that_do_not_fit_are_refused_or_asked_for(tmp_path):
  path = small_vit(tmp_path)
  with pytest.raises(ConfigError, match="attention of 6 heads; .* has 12"):
    runs.start(vit(heads=12), path)
  _, notes = runs.start(vit(heads=12), InitFrom(path, heads=12))
  assert "taken for granted" not in "\n".join(notes)
  _, notes = runs.start(vit(), path)
  assert "6 heads of 64 are taken for granted" in "\n".join(notes)
  # MoCo v3's ViT-S without its prefix: 12 heads there, 6 in a copy of it.
  path = small_vit(tmp_path, positions=sincos("row"), name="bare.pth")
  with pytest.raises(ConfigError, match="does not say how many heads"):
    runs.start(fixed(position_order="row"), path)
  runs.start(fixed(position_order="row", heads=12), InitFrom(path, heads=12))
  # By its layout it is known.
  path, _, _ = file_of(tmp_path, "mocov3_vit")
  with pytest.raises(ConfigError, match="attention of 12 heads; .* has 6"):
    runs.start(fixed(position_order="row"), path)


def test_positions_of_another_kind_are_refused(tmp_path):
  path = small_vit(tmp_path, positions=sincos("column"))
  with pytest.raises(ConfigError, match="'column' there and 'row' here"):
    runs.start(fixed(position_order="row"), path)
  with pytest.raises(ConfigError, match="image_size 224 there and 112 here"):
    runs.start(fixed(position_order="column", image_size=112), path)
  learned = small_vit(tmp_path, name="l.pth")
  with pytest.raises(ConfigError, match="positions 'learned' there and 's"):
    runs.start(fixed(position_order="column"), learned)
  # Fixed ones may become parameters.
  state, _ = runs.start(vit(), path)
  np.testing.assert_allclose(
    state.params["backbone"]["pos_embed"], sincos("column"), atol=1e-6
  )


def test_learned_positions_are_resized_as_timm_does(tmp_path):
  path = small_vit(tmp_path)
  state, notes = runs.start(vit(image_size=160), path)
  assert "pos_embed resized from 14 x 14 to 10 x 10: bicubic" in "\n".join(
    notes
  )
  found = np.asarray(state.params["backbone"]["pos_embed"])
  old = torch_files.numbers("pos_embed", (1, 197, 384))
  np.testing.assert_array_equal(found[:, 0], old[:, 0])
  torch = pytest.importorskip("torch", reason="to resize as timm does")
  grid = torch.tensor(old[:, 1:].copy()).reshape(1, 14, 14, 384)
  wanted = torch.nn.functional.interpolate(
    grid.permute(0, 3, 1, 2), size=(10, 10), mode="bicubic", antialias=True
  )
  wanted = wanted.permute(0, 2, 3, 1).reshape(1, 100, 384).numpy()
  np.testing.assert_allclose(found[:, 1:], wanted, atol=2e-5)


def test_patches_as_a_matrix_are_refused(tmp_path):
  content = official.dino() | {"patch_embed.proj.weight": (384, 768)}
  with pytest.raises(ConfigError, match="in which order it takes the numbers"):
    runs.start(vit(), small_vit(tmp_path, content))
