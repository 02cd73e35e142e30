"""Attention of a trained ViT is what its last block averages by."""

import dataclasses

import jax
import numpy as np
import pytest

from sslx.features.attention import attention
from sslx.weights.run import open_run
from tests import tiny
from tests.weights import runs


@pytest.mark.parametrize("class_token", [True, False])
def test_attention_is_that_of_the_last_block(tmp_path, class_token):
  """In numpy, from the input of the last block's attention and its kernels."""
  config = tiny.vit_config("mocov3")
  with config.model.unlocked():
    config.model.backbone.registers = 1
    config.model.backbone.class_token = class_token
    if not class_token:
      config.model.backbone.features = "pooled"
  runs.save(tmp_path / "w", config)
  run = open_run(str(tmp_path / "w"))
  method = dataclasses.replace(
    run.method, backbone=run.backbone.clone(remat=True)
  )
  run = dataclasses.replace(run, method=method)
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
  found = np.asarray(jax.jit(lambda x: attention(run, x))(pixels))
  assert found.shape == (3, 2, 4, 4)

  plain = run.backbone.clone(remat=False)
  images = (pixels / 255 - run.data.mean) / run.data.std
  _, seen = plain.apply(
    run.variables,
    images.astype(np.float32),
    train=False,
    capture_intermediates=lambda module, _: module.name in ("norm1", "attn"),
    mutable=["intermediates"],
  )
  block = seen["intermediates"]["blocks_1"]
  (x,), (out,) = block["norm1"]["__call__"], block["attn"]["__call__"]
  params = run.params["backbone"]["blocks_1"]["attn"]
  q, k, v = np.moveaxis(
    np.einsum("btd,dkhe->btkhe", x, params["qkv"]["kernel"])
    + params["qkv"]["bias"],
    2,
    0,
  )
  logits = np.einsum("bqhe,bkhe->bhqk", q, k) / np.sqrt(16)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  # These weights make the output of the real layer.
  mixed = np.einsum("bhqk,bkhe->bqhe", weights, v)
  made = np.einsum("bqhe,hed->bqd", mixed, params["proj"]["kernel"])
  np.testing.assert_allclose(made + params["proj"]["bias"], out, atol=1e-4)

  before = 1 + class_token
  rows = weights[:, :, 0] if class_token else weights[:, :, before:].mean(2)
  expected = rows[..., before:].reshape(3, 2, 4, 4)
  np.testing.assert_allclose(found, expected, atol=1e-5)
