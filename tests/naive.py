"""Layers written out from their formulas, and how near one has to come."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf


def layer_norm(x, p):
  mean = x.mean(-1, keepdims=True)
  var = ((x - mean) ** 2).mean(-1, keepdims=True)
  return (x - mean) / jnp.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
  return x @ p["kernel"].reshape(x.shape[-1], -1) + p["bias"].reshape(-1)


def block(x, p, heads):
  b, t, d = x.shape
  qkv = linear(layer_norm(x, p["norm1"]), p["attn"]["qkv"])
  q, k, v = qkv.reshape(b, t, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
  logits = q @ k.swapaxes(-1, -2) / (d // heads) ** 0.5
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  weights = weights / weights.sum(-1, keepdims=True)
  mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(b, t, d)
  proj = p["attn"]["proj"]
  scales = [p[key]["gamma"] if key in p else 1 for key in ("ls1", "ls2")]
  x = x + (mixed @ proj["kernel"].reshape(d, d) + proj["bias"]) * scales[0]
  y = linear(layer_norm(x, p["norm2"]), p["mlp"]["fc1"])
  y = 0.5 * y * (1 + erf(y / 2**0.5))
  return x + linear(y, p["mlp"]["fc2"]) * scales[1]


def blocks(x, params, heads):
  """All blocks of a tree, and its last LayerNorm."""
  for i in range(sum(name.startswith("blocks_") for name in params)):
    x = block(x, params[f"blocks_{i}"], heads)
  return layer_norm(x, params["norm"])


def vit(images, params, patch, heads, mask=None):
  """Tokens of a ViT with learned positions; registers follow the class token.

  Masked patches, bool[b, n], are the mask token.
  """
  b, side = len(images), images.shape[1] // patch
  x = images.reshape(b, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
  x = linear(x.reshape(b, side**2, -1), params["patch_embed"]["proj"])
  if mask is not None:
    x = jnp.where(mask[..., None], params["mask_token"], x)
  first, places = params["pos_embed"][:, :1], params["pos_embed"][0, 1:]
  d, trained = x.shape[-1], round(len(places) ** 0.5)
  places = places.reshape(trained, trained, d)
  x = x + jax.image.resize(places, (side, side, d), "cubic").reshape(-1, d)
  before = [params["cls_token"] + first]
  if "reg_token" in params:
    before.append(params["reg_token"])
  before = [jnp.tile(token, (b, 1, 1)) for token in before]
  return blocks(jnp.concatenate([*before, x], 1), params, heads)


def batch_norm(x, p=None):
  """By the batch's own statistics."""
  x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)
  return x if p is None else x * p["scale"] + p["bias"]


def mlp(x, params):
  """Linear layers without bias, BatchNorm after each, the last one plain."""
  depth = sum(name.startswith("fc") for name in params)
  for i in range(1, depth):
    x = batch_norm(x @ params[f"fc{i}"]["kernel"], params[f"bn{i}"])
    x = jnp.maximum(x, 0)
  return batch_norm(x @ params[f"fc{depth}"]["kernel"])


def siamese(x, params):
  """`tiny.Convs` and a head, by the batch's own statistics.

  Returns:
    The head's output; and what each BatchNorm is given, for its statistics.
  """
  h, of_backbone = convs(x, params["backbone"])
  z, of_head = head(h, params["projector"])
  return z, {"backbone": of_backbone, "projector": of_head}


def convs(x, params):
  """`tiny.Convs`; returns as `siamese`."""
  given = {}
  for i in (1, 2):
    layer = params[f"conv{i}"]["kernel"]
    x = jax.lax.conv_general_dilated(
      x, layer, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    given[f"bn{i}"] = flat = x.reshape(-1, x.shape[-1])
    flat = batch_norm(flat, params[f"bn{i}"])
    x = jnp.log1p(jnp.exp(flat)).reshape(x.shape)
  return x.mean((1, 2)), given


def prototypes(x, params):
  """DINO's head: an MLP with GELU, and cosines to the prototypes."""
  depth = sum(name.startswith("fc") for name in params)
  for i in range(1, depth + 1):
    x = linear(x, params[f"fc{i}"])
    if i < depth:
      x = 0.5 * x * (1 + erf(x / 2**0.5))
  return unit(x) @ unit(params["prototypes"]).T * params.get("scale", 1)


def head(x, params):
  """Linear layers with BatchNorm and ReLU between.

  Returns:
    As `siamese`.
  """
  given = {}
  depth = sum(name.startswith("fc") for name in params)
  for i in range(1, depth + 1):
    layer = params[f"fc{i}"]
    x = x @ layer["kernel"] + layer.get("bias", 0)
    if i < depth:
      given[f"bn{i}"] = x
      x = jnp.maximum(batch_norm(x, params[f"bn{i}"]), 0)
  return x, given


def running(old, given):
  """The running statistics after a batch, as torch has them."""
  momentum = 0.9
  return {
    name: {
      "mean": momentum * old[name]["mean"] + (1 - momentum) * x.mean(0),
      "var": momentum * old[name]["var"] + (1 - momentum) * x.var(0, ddof=1),
    }
    for name, x in given.items()
  }


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def assert_near(new, old, tolerance):
  """Each array is near; what is far smaller than the rest is rounding.

  BatchNorm takes out what the bias of the last LayerNorm does, and softmax that
  of the keys: their gradients are zero.
  """
  whole = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(old)))

  def check(path, a, b):
    error, norm = np.linalg.norm(a - b), np.linalg.norm(b)
    name = jax.tree_util.keystr(path)
    accepted = tolerance * (norm + 1e-2 * whole)
    assert error <= accepted, f"{name}: {error} of {norm}"

  jax.tree.map_with_path(check, new, old)
