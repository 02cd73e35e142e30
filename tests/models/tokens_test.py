"""A ViT's tokens, blocks and drop path against a ViT in numpy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sslx import config as config_lib
from sslx import models
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.methods.run import Run
from sslx.models import patches, transformer, vit
from tests import tiny
from tests.models.vit_test import official_positions, random_params, shapes_of
from tests.weights import runs

TINY = {"width": 16, "depth": 3, "heads": 2, "patch_size": 4, "image_size": 16}
IMAGES = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)


def layer_norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * p["scale"] + p["bias"]


def dense(x, p):
  return x @ p["kernel"] + p["bias"]


def attention(x, p):
  qkv = np.einsum("btd,dkhe->kbhte", x, p["qkv"]["kernel"])
  q, k, v = qkv + p["qkv"]["bias"][:, None, :, None]
  logits = np.einsum("bhte,bhse->bhts", q, k) / np.sqrt(q.shape[-1])
  y = np.einsum("bhts,bhse->bthe", scipy.special.softmax(logits, -1), v)
  return np.einsum("bthe,hed->btd", y, p["proj"]["kernel"]) + p["proj"]["bias"]


def mlp(x, p):
  if "w12" in p:
    gate, y = np.einsum("btd,dgh->gbth", x, p["w12"]["kernel"])
    gate, y = gate + p["w12"]["bias"][0], y + p["w12"]["bias"][1]
    return dense(gate * scipy.special.expit(gate) * y, p["w3"])
  y = dense(x, p["fc1"])
  return dense(y * scipy.special.ndtr(y), p["fc2"])


def numpy_tokens(params, images, mask=None, factors=None):
  """Tokens after each block, each after the last norm: a list of [b, t, d].

  Args:
    params: parameters of a ViT with patches of 4 px and fixed positions.
    images: [b, 16, 16, 3].
    mask: bool[b, 16], patches to replace by the mask token.
    factors: [b, depth, 2], drop path's factors of the branches.
  """
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = dense(np.asarray(patches.patchify(images, 4), np.float64),
            params["patch_embed"]["proj"])  # fmt: skip
  if mask is not None:
    x = np.where(mask[..., None], params["mask_token"], x)
  x = x + official_positions(x.shape[-1], 4, "column")
  for name in ("reg_token", "cls_token"):
    if name in params:
      first = np.repeat(params[name], len(x), 0)
      x = np.concatenate([first, x], axis=1)
  outputs = []
  for i in range(sum(name.startswith("blocks") for name in params)):
    p = params[f"blocks_{i}"]
    for j, (branch, name) in enumerate(((attention, "attn"), (mlp, "mlp"))):
      y = branch(layer_norm(x, p[f"norm{j + 1}"]), p[name])
      y = y * p.get(f"ls{j + 1}", {"gamma": 1})["gamma"]
      if factors is not None:
        y = y * factors[:, i, j, None, None]
      x = x + y
    outputs.append(layer_norm(x, params["norm"]))
  return outputs


def tokens_of(module, params, train=False, **arguments):
  return module.apply(
    {"params": params}, IMAGES, train=train, method="tokens", **arguments
  )


@pytest.mark.parametrize("class_token", [True, False])
def test_registers_and_masks_equal_numpy(class_token):
  module = vit.ViT(
    **TINY,
    class_token=class_token,
    features="pooled",
    registers=3,
    mask_token=True,
    layer_scale=0.1,
  )
  params = random_params(module, 16)
  assert params["reg_token"].shape == (1, 3, 16)
  assert params["mask_token"].shape == (1, 1, 16)
  mask = np.random.default_rng(2).uniform(size=(2, 16)) < 0.4
  *_, wanted = numpy_tokens(params, IMAGES, mask)
  found = tokens_of(module, params, mask=mask)
  assert found.shape == (2, module.before + 16, 16)
  np.testing.assert_allclose(found, wanted, atol=1e-4)
  *_, wanted = numpy_tokens(params, IMAGES)
  np.testing.assert_allclose(tokens_of(module, params), wanted, atol=1e-4)
  # Registers are in no feature.
  features = module.apply({"params": params}, IMAGES, train=False, every=True)
  first = 3 + class_token
  pooled = wanted[:, first:].mean(1)
  np.testing.assert_allclose(features["pooled"], pooled, atol=1e-4)
  if class_token:
    np.testing.assert_allclose(features["cls"], wanted[:, 0], atol=1e-4)
  # With `keep`, a mask is one of the kept patches.
  keep = np.array([[3, 8, 1, 15], [0, 2, 9, 4]])
  everything = np.arange(16)[None].repeat(2, 0)
  found = tokens_of(module, params, keep=everything[:, ::-1], mask=mask)
  wanted = tokens_of(module, params, mask=mask[:, ::-1])[:, first:]
  np.testing.assert_allclose(found[:, : first - 1 : -1], wanted, atol=1e-4)
  assert tokens_of(module, params, keep=keep).shape == (2, first + 4, 16)


@pytest.mark.parametrize("class_token", [True, False])
def test_padding_changes_no_token(class_token):
  module = vit.ViT(
    **TINY, class_token=class_token, features="pooled", registers=2, remat=True
  )
  params = random_params(module, 16)
  keep = np.array([[3, 8, 1, 15, 0], [0, 2, 9, 4, 4]])
  valid = np.array([[1, 1, 0, 1, 1], [1, 1, 1, 0, 0]], bool)
  found = tokens_of(module, params, keep=keep, valid=valid)
  for i in range(2):
    wanted = module.apply(
      {"params": params},
      IMAGES[i : i + 1],
      train=False,
      method="tokens",
      keep=keep[i, valid[i]][None],
    )[0]
    shown = np.r_[np.ones(module.before, bool), valid[i]]
    np.testing.assert_allclose(found[i, shown], wanted, atol=1e-5)


@pytest.mark.parametrize(
  ("width", "ratio", "units"),
  [(16, 4.0, 48), (1536, 4.0, 4096), (384, 4.0, 1024), (100, 2.5, 168)],
)
def test_swiglu_equals_numpy_and_has_dinov2s_width(width, ratio, units):
  sizes = {"width": width, "mlp_ratio": ratio, "depth": 1, "heads": 2}
  module = vit.ViT(**TINY | sizes, mlp="swiglu")
  shapes = shapes_of(module, 16)["blocks_0"]["mlp"]
  assert shapes["w12"]["kernel"].shape == (width, 2, units)
  assert shapes["w3"]["kernel"].shape == (units, width)
  if width > 100:
    return
  params = random_params(module, 16)
  *_, wanted = numpy_tokens(params, IMAGES)
  np.testing.assert_allclose(tokens_of(module, params), wanted, atol=1e-4)


def test_a_model_axis_shards_the_hidden_units_of_swiglu():
  module = vit.ViT(**TINY, mlp="swiglu")
  flat, _ = jax.tree_util.tree_flatten_with_path(shapes_of(module, 16))
  sharded = {}
  for path, x in flat:
    name = "/" + jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, axis in module.tensor_rules:
      if "blocks_0/mlp" in name and re.search(pattern, name):
        sharded[name.partition("mlp/")[2]] = x.shape[axis]
  units = transformer.swiglu_units(64)
  assert sharded == dict.fromkeys(
    ("w12/kernel", "w12/bias", "w3/kernel"), units
  )


@pytest.mark.parametrize("last", [1, 2, 3])
def test_features_of_the_last_blocks(last):
  module = vit.ViT(**TINY, registers=1)
  params = random_params(module, 16)
  outputs = numpy_tokens(params, IMAGES)[-last:]
  wanted = np.concatenate(outputs, axis=-1)
  found = tokens_of(module, params, last=last)
  np.testing.assert_allclose(found, wanted, atol=1e-4)
  # DINO: class tokens of the last blocks. DINOv2: and the last one's patches.
  features = module.apply(
    {"params": params}, IMAGES, train=False, every=True, last=last
  )
  patches = outputs[-1][:, 2:].mean(1)
  expected = {
    "final": outputs[-1][:, 0],
    "cls": outputs[-1][:, 0],
    "pooled": patches,
    "cls+pooled": np.concatenate([outputs[-1][:, 0], patches], axis=-1),
  }
  if last > 1:
    both = np.concatenate([wanted[:, 0], patches], axis=-1)
    expected |= {f"cls{last}": wanted[:, 0], f"cls{last}+pooled": both}
  assert features.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_allclose(features[name], x, atol=1e-4)
  for wrong in (0, 4):
    with pytest.raises(ValueError, match=f"last is {wrong}; it must be 1 to 3"):
      tokens_of(module, params, last=wrong)


@pytest.mark.parametrize("schedule", ["linear", "uniform"])
def test_drop_path_equals_numpy_with_the_rates_of_its_schedule(schedule):
  module = vit.ViT(**TINY, drop_path=0.6, drop_path_schedule=schedule)
  keys = jax.random.split(jax.random.key(0), 4000)
  factors = np.asarray(module._drop(3, True, keys))
  rates = [0.6] * 3 if schedule == "uniform" else [0, 0.3, 0.6]
  for i, rate in enumerate(rates):
    assert np.mean(factors[:, i] == 0) == pytest.approx(rate, abs=0.03)
    kept = factors[:, i][factors[:, i] > 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-6)
  params = random_params(module, 16)
  found = tokens_of(module, params, train=True, keys=keys[:2])
  *_, wanted = numpy_tokens(params, IMAGES, factors=factors[:2])
  np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_what_is_masked_is_not_seen_and_the_token_has_the_gradient():
  module = vit.ViT(**TINY, mask_token=True, dtype="bfloat16")
  params = random_params(module, 16)
  mask = np.arange(16)[None].repeat(2, 0) % 3 == 0
  hidden = np.array(patches.patchify(IMAGES, 4))
  hidden[mask] = 1e3
  images = np.asarray(patches.unpatchify(hidden, 4, (4, 4)))
  apply = lambda p, x, axis=Axis(): module.apply(
    {"params": p}, x, train=True, mask=mask, axis=axis
  )
  np.testing.assert_array_equal(apply(params, images), apply(params, IMAGES))
  for axis in (Axis(), Axis(float32_gradients=True)):
    loss = lambda p, axis=axis: apply(p, IMAGES, axis).sum()
    grads = jax.grad(loss)(params)
    assert np.any(grads["mask_token"])
    assert np.any(grads["patch_embed"]["proj"]["kernel"])


def test_new_parameters_start_as_in_the_official_code_and_move_no_other():
  plain = vit.ViT(**TINY)
  module = vit.ViT(**TINY, registers=400, mask_token=True)
  init = lambda m: m.init(jax.random.key(0), IMAGES, train=False)["params"]
  found, others = dict(init(module)), init(plain)
  assert not np.any(found.pop("mask_token"))
  registers = np.asarray(found.pop("reg_token"))
  assert np.std(registers) == pytest.approx(1e-6, rel=0.1)
  jax.tree.map(np.testing.assert_array_equal, found, others)


def test_a_mask_that_cannot_be_used_is_refused():
  module = vit.ViT(**TINY)
  mask = np.zeros((2, 16), bool)
  params = random_params(module, 16)
  with pytest.raises(ConfigError, match="mask_token is False, but .* use True"):
    tokens_of(module, params, mask=mask)
  module = vit.ViT(**TINY, mask_token=True)
  params = random_params(module, 16)
  with pytest.raises(ValueError, match=r"shape \(2, 4\); it must be \(2, 16\)"):
    tokens_of(module, params, mask=mask[:, :4])
  with pytest.raises(ConfigError, match="registers is -1"):
    section = {"name": "vit", "registers": -1}
    config_lib.build(models.BACKBONE, section, "model.backbone")


def test_maes_decoder_is_given_no_registers():
  config = tiny.vit_config("mae", model__backbone__registers=2)
  method, state = runs.abstract(config)
  assert state[0]["backbone"]["reg_token"].shape == (1, 2, 32)
  shapes = {}

  class Seen(Run):
    def __call__(self, name, x, **arguments):
      shapes[name] = x.shape
      return super().__call__(name, x, **arguments)

  def loss(params, model_state, aux):
    batch = {"views": (jnp.zeros((3, 16, 16, 3)),)}
    key, step = jax.random.key(0), jnp.int32(0)
    run = Seen(method, params, model_state, aux, batch, key, step, Axis())
    return run.loss()[0]

  jax.eval_shape(loss, *state)
  assert shapes["decoder"] == (3, 1 + 4, 32)
  tokens = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7, 32)))
  shown = np.asarray(patches.without_registers(tokens, 2))
  np.testing.assert_array_equal(shown, np.delete(tokens, [1, 2], axis=1))
  np.testing.assert_array_equal(patches.without_registers(tokens, 0), tokens)
