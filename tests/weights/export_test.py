"""Exports, loaded by the libraries that they are for, and back again."""

import contextlib
import json
import re

import jax
import numpy as np
import pytest

from sslx import export
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from sslx.weights import files
from sslx.weights.run import open_run
from tests import tiny
from tests.weights import runs

VIT = {
  "model__backbone__width": 64,
  "model__backbone__heads": 4,
  "model__backbone__depth": 3,
}


def channels(n):
  """Settings of a network for images of n channels."""
  return {
    "data__channels": n,
    "data__mean": (0.5,) * n,
    "data__std": (0.25,) * n,
  }


CONFIGS = {
  "resnet18": lambda: runs.resnet(18),
  "resnet50": lambda: runs.resnet(50),
  "narrow": lambda: runs.resnet(18, model__backbone__width=0.25),
  "cifar": lambda: runs.resnet(50, model__backbone__stem="cifar"),
  "narrow_cifar": lambda: runs.resnet(
    18, model__backbone__stem="cifar", model__backbone__width=0.25
  ),
  "mae": lambda: tiny.vit_config("mae", **VIT),
  "mocov3": lambda: tiny.vit_config("mocov3", **VIT),
  "pooled": lambda: tiny.vit_config(
    "mocov3", **VIT, model__backbone__features="pooled"
  ),
  "no_class": lambda: tiny.vit_config(
    "mocov3",
    **VIT,
    model__backbone__features="pooled",
    model__backbone__class_token=False,
    model__backbone__positions="learned",
  ),
  "pool_norm": lambda: tiny.vit_config(
    "mocov3",
    **VIT,
    model__backbone__features="pooled",
    model__backbone__pool_norm=True,
  ),
  "luma": lambda: runs.resnet(18, **channels(1)),
  "bands": lambda: tiny.vit_config("mae", **VIT, **channels(2)),
  "dinov2": lambda: tiny.vit_config(
    "mocov3",
    **VIT,
    model__backbone__positions="learned",
    model__backbone__layer_scale=1e-5,
  ),
  "dinov2_giant": lambda: tiny.vit_config(
    "mocov3",
    **VIT,
    model__backbone__positions="learned",
    model__backbone__layer_scale=1e-5,
    model__backbone__registers=4,
    model__backbone__mlp="swiglu",
    model__backbone__mlp_ratio=3.2,
  ),
  "registers": lambda: tiny.vit_config(
    "mocov3",
    **VIT,
    model__backbone__registers=2,
    model__backbone__mask_token=True,
    model__backbone__features="pooled",
  ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Workdir and state of a run of one of CONFIGS."""
  made = {}

  def get(name):
    if name not in made:
      workdir = tmp_path_factory.mktemp(name) / "run"
      made[name] = workdir, runs.save(workdir, CONFIGS[name]())
    return made[name]

  return get


@pytest.fixture
def exported(saved, tmp_path, capsys):
  """Folder of an export."""

  def get(name, to, *flags):
    out = tmp_path / f"{name}-{to}{''.join(flags)}"
    workdir, _ = saved(name)
    export.main([f"--workdir={workdir}", f"--to={to}", f"--out={out}", *flags])
    assert f"for {to}" in capsys.readouterr().out
    return out

  return get


def features(workdir, name="final", what=None):
  """Images, normalised, and what our own network makes of them."""
  run = open_run(workdir, what=what)
  size = run.image_size
  images = np.random.default_rng(5).normal(
    size=(3, size, size, run.data.channels)
  )
  images = images.astype(np.float32)
  found = jax.jit(run.method.encode)(run.params, run.model_state, images)
  return images, np.asarray(found[name])


@pytest.fixture
def loaded_by_its_readme(monkeypatch):
  """Model and features by the lines of an export's own README.

  A test that cannot load anything is skipped before it makes anything.
  """
  torch = pytest.importorskip("torch", reason="to load what is for torch")

  def get(folder, images):
    text = (folder / "README.md").read_text()
    for library in ("timm", "torchvision", "transformers"):
      if f"import {library}" in text:
        pytest.importorskip(library, reason="to load what is for it")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(folder)
    names = {"images": torch.tensor(images).permute(0, 3, 1, 2)}
    with torch.no_grad(), _quiet():
      exec(code, names)
    return names["model"], names["features"].numpy()

  return get


@contextlib.contextmanager
def _quiet():
  """Warnings of other libraries' own code are not ours."""
  import warnings

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield


def assert_close(found, wanted):
  assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("luma", 1), ("bands", 2)])
def test_images_of_other_channels_are_for_timm_and_npz(name, count, exported):
  for to in ("hf", "torchvision", "safetensors"):
    with pytest.raises(ConfigError, match="for timm and npz only"):
      exported(name, to)
  exported(name, "npz")
  config = json.loads((exported(name, "timm") / "config.json").read_text())
  assert config["model_args"]["in_chans"] == count
  assert config["pretrained_cfg"]["input_size"][0] == count


@pytest.mark.slow
@pytest.mark.parametrize("name", ["luma", "bands"])
def test_features_of_other_channels_are_equal_in_timm(
  saved, exported, loaded_by_its_readme, name
):
  images, wanted = features(saved(name)[0])
  _, found = loaded_by_its_readme(exported(name, "timm"), images)
  assert_close(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "to", "flags"),
  [
    ("resnet18", "timm", ()),
    ("resnet50", "timm", ()),
    ("mae", "timm", ()),
    ("mocov3", "timm", ()),
    ("pooled", "timm", ()),
    ("no_class", "timm", ()),
    ("dinov2", "timm", ()),
    ("dinov2_giant", "timm", ()),
    ("registers", "timm", ()),
    ("resnet18", "hf", ()),
    ("resnet50", "hf", ()),
    ("narrow", "hf", ()),
    ("mae", "hf", ()),
    ("mocov3", "hf", ()),
    ("mocov3", "hf", ("--model_type=dinov2",)),
    ("dinov2", "hf", ()),
    ("resnet18", "torchvision", ()),
    ("resnet50", "torchvision", ()),
    ("mocov3", "torchvision", ()),
    ("narrow", "safetensors", ()),
    ("cifar", "safetensors", ()),
    ("narrow_cifar", "safetensors", ()),
    ("dinov2", "safetensors", ()),
    ("dinov2_giant", "safetensors", ()),
    ("registers", "safetensors", ()),
  ],
)
def test_features_are_equal_in_the_library(
  saved, exported, loaded_by_its_readme, name, to, flags
):
  images, wanted = features(saved(name)[0])
  folder = exported(name, to, *flags)
  _, found = loaded_by_its_readme(folder, images)
  assert_close(found, wanted)


def test_timm_can_be_given_the_other_pooling(
  saved, exported, loaded_by_its_readme
):
  images, wanted = features(saved("mae")[0], "pooled")
  folder = exported("mae", "timm", "--features=pooled")
  model, found = loaded_by_its_readme(folder, images)
  assert_close(found, wanted)
  mean = open_run(saved("mae")[0]).data.mean
  assert tuple(model.pretrained_cfg["mean"]) == mean


def test_timm_has_the_norm_after_the_pooling(
  saved, exported, loaded_by_its_readme
):
  images, wanted = features(saved("pool_norm")[0])
  for to in ("timm", "safetensors"):
    folder = exported("pool_norm", to)
    model, found = loaded_by_its_readme(folder, images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert "fc_norm.weight" in model.state_dict()


def test_the_teacher_is_another_network(saved, exported, loaded_by_its_readme):
  images, wanted = features(saved("mocov3")[0], what="teacher")
  folder = exported("mocov3", "timm", "--what=teacher")
  _, found = loaded_by_its_readme(folder, images)
  assert_close(found, wanted)
  _, student = features(saved("mocov3")[0])
  assert np.abs(student - wanted).max() > 0.1
  assert files.read(str(folder)).metadata["network"] == "teacher"


def test_transformers_decodes_as_mae_does(
  saved, exported, loaded_by_its_readme
):
  """All of ViTMAEForPreTraining, decoder included, with our masks."""
  transformers = pytest.importorskip("transformers", reason="to load the model")
  import torch

  workdir, _ = saved("mae")
  folder = exported("mae", "hf", "--model_type=vit_mae")
  images, wanted = features(workdir)
  _, found = loaded_by_its_readme(folder, images)
  assert_close(found, wanted)

  run = open_run(workdir)
  keys = jax.random.split(jax.random.key(3), len(images))
  n = run.backbone.trained_grid**2
  noise = jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys)
  with _quiet():
    model, info = transformers.ViTMAEForPreTraining.from_pretrained(
      folder, output_loading_info=True
    )
  assert not any(info.values())
  with torch.no_grad():
    output = model.eval()(
      torch.tensor(images).permute(0, 3, 1, 2),
      noise=torch.tensor(np.asarray(noise)),
    )

  @jax.jit
  def reconstruct(params, model_state, images):
    batch, key = {"views": (images,)}, jax.random.key(0)
    ours = Run(run.method, params, model_state, {}, batch, key, 0, Axis())
    ours.keys = keys
    return run.method._reconstruct(ours)

  _, predicted, masked = reconstruct(run.params, run.model_state, images)
  np.testing.assert_array_equal(output.mask.numpy(), masked)
  assert_close(output.logits.numpy(), np.asarray(predicted))


def test_transformers_finds_every_tensor(saved, exported):
  transformers = pytest.importorskip("transformers", reason="to load the model")
  for name, flags in (("mae", ()), ("dinov2", ()), ("narrow", ())):
    folder = exported(name, "hf", *flags)
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    arguments = {"add_pooling_layer": False} if kind == "ViTModel" else {}
    with _quiet():
      _, info = getattr(transformers, kind).from_pretrained(
        folder, output_loading_info=True, **arguments
      )
    assert not any(info.values()), (name, info)


def test_transformers_prepares_images_as_we_do(exported, saved):
  transformers = pytest.importorskip("transformers", reason="to load the model")
  folder = exported("mae", "hf")
  with _quiet():
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    found = processor(image, return_tensors="np")["pixel_values"][0]
  data = open_run(saved("mae")[0]).data
  wanted = (image / 255 - data.mean) / data.std
  np.testing.assert_allclose(found.transpose(1, 2, 0), wanted, atol=1e-5)


TARGETS = {
  "resnet18": ("timm", "hf", "torchvision", "safetensors", "npz"),
  "narrow_cifar": ("safetensors", "npz"),
  "mae": ("timm", "hf", "torchvision", "safetensors", "npz"),
  "dinov2": ("timm", "hf", "safetensors", "npz"),
  "dinov2_giant": ("timm", "safetensors", "npz"),
  "registers": ("npz",),
  "no_class": ("timm", "safetensors", "npz"),
  "pool_norm": ("timm", "safetensors", "npz"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_every_export_comes_back_bitwise(saved, exported, name):
  _, state = saved(name)
  for to in TARGETS[name]:
    folder = exported(name, to)
    (weights,) = [
      p for p in folder.iterdir() if p.suffix in (".safetensors", ".npz")
    ]
    for path in (folder, weights):
      found, notes = runs.start(CONFIGS[name](), str(path))
      for group in ("params", "model_state"):
        jax.tree.map(
          np.testing.assert_array_equal,
          getattr(found, group)["backbone"],
          getattr(state, group)["backbone"],
        )
      counted = len(jax.tree.leaves(state.params["backbone"])) + len(
        jax.tree.leaves(state.model_state["backbone"])
      )
      text = "\n".join(notes)
      assert f"backbone: {counted} of {counted} tensors" in text
      assert "the stored image gives the stored features" in text


def test_the_mask_token_is_left_out_with_a_word(exported, saved, tmp_path):
  workdir, state = saved("registers")
  found = files.read(str(exported("registers", "npz"))).content
  np.testing.assert_array_equal(
    found["params/mask_token"], state.params["backbone"]["mask_token"]
  )
  out = tmp_path / "timm"
  export.main([f"--workdir={workdir}", "--to=timm", f"--out={out}"])
  content = files.read(str(out)).content
  assert "mask_token" not in content
  # A class token, two registers and 16 patches.
  assert content["pos_embed"].shape == (1, 19, 64)
  assert not np.any(content["pos_embed"][:, 1:3])
  with pytest.raises(ConfigError, match="mask_token: absent there"):
    runs.start(CONFIGS["registers"](), str(out))


def test_the_tensors_are_those_of_torchvision(exported):
  content = files.read(str(exported("resnet18", "torchvision"))).content
  assert len(content) == 122 - 2  # Without `fc`, see torchvision's resnet18.
  assert content["bn1.num_batches_tracked"].shape == ()
  assert content["bn1.num_batches_tracked"].dtype == np.int64
  assert content["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)


def test_the_metadata_say_where_the_weights_come_from(exported):
  metadata = files.read(str(exported("mocov3", "timm"))).metadata
  assert metadata["method"] == "mocov3"
  assert metadata["network"] == "student"
  assert metadata["step"] == str(runs.STEP)
  assert re.fullmatch(r"[0-9a-f]{16}", metadata["config"])
  assert metadata["recipe"].startswith("mocov3_vit-")
  assert json.loads(metadata["evaluation"]) == {"knn_20": 0.5}
  assert len(json.loads(metadata["mean"])) == 3


@pytest.mark.parametrize(
  ("name", "to", "flags", "message"),
  [
    ("narrow", "timm", (), "64 channels in its stem, and this network 16"),
    ("narrow", "torchvision", (), "use --to=hf, or --to=safetensors"),
    ("cifar", "torchvision", (), "the 'cifar' stem; use --to=safetensors"),
    ("cifar", "hf", (), "the 'cifar' stem; use --to=safetensors"),
    ("dinov2", "torchvision", (), "no layer scale; use --to=timm"),
    ("dinov2_giant", "hf", (), "registers=4 and mlp='swiglu'. Use --to=timm"),
    ("dinov2_giant", "torchvision", (), "the 'gelu' MLP, no registers"),
    ("dinov2", "hf", ("--model_type=vit",), "use --model_type=dinov2"),
    ("no_class", "hf", (), "has a class token, and this network has none"),
    ("no_class", "timm", ("--features=cls",), "has no class token"),
    ("pool_norm", "timm", ("--features=cls",), "its class token has no last"),
    ("pool_norm", "hf", (), "this network has pool_norm=True. Use --to=timm"),
    ("pool_norm", "torchvision", (), "no pool_norm and no layer scale"),
    ("mocov3", "hf", ("--model_type=vit_mae",), "which has no decoder"),
    ("resnet18", "hf", ("--model_type=vit",), "has a ResNet"),
    ("resnet18", "timm", ("--what=teacher",), "one network only"),
  ],
)
def test_what_a_target_cannot_express_is_refused_with_the_way_round(
  exported, name, to, flags, message
):
  with pytest.raises(ConfigError, match=re.escape(message)):
    exported(name, to, *flags)


def test_an_existing_folder_is_left_alone(saved, tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  with pytest.raises(ConfigError, match="exists. Remove it, or give another"):
    workdir, _ = saved("mae")
    export.main([f"--workdir={workdir}", "--to=npz", f"--out={tmp_path}"])
  assert (tmp_path / "thesis.tex").exists()


def test_a_step_that_is_not_there_is_refused(saved):
  from sslx.checkpoint import CheckpointError

  workdir, _ = saved("mae")
  with pytest.raises(CheckpointError, match="of step 7; there are those of 3"):
    export.main([f"--workdir={workdir}", "--to=npz", "--step=7"])
  with pytest.raises(ConfigError, match="Give the workdir of a run"):
    export.main([f"--workdir={workdir.parent}", "--to=npz"])


def test_weights_that_were_tampered_with_are_found_by_the_stored_pair(exported):
  folder = exported("mae", "npz")
  content = dict(np.load(folder / "weights.npz"))
  kernel = content["params/blocks_1/attn/qkv/kernel"]
  # Queries and keys of one head change places with another's: no shape tells.
  kernel[:, :2] = kernel[:, :2, ::-1].copy()
  kernel[:, 2] = kernel[:, 2, ::-1].copy()
  np.savez(folder / "weights.npz", **content)
  with pytest.raises(ConfigError, match="gives others"):
    runs.start(CONFIGS["mae"](), str(folder))
