"""Layers written out from their formulas, and how near one has to come."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf


def compiled(function):
  """A formula for arrays, compiled for each of its other arguments.

  What the updates of parameters do with its results, numpy's, is not: to
  compile each of their operations would take longer than all else.
  """
  names = set(inspect.signature(function).parameters)
  static = names & {"mistake", "groups", "plain"}
  jitted = jax.jit(function, static_argnames=sorted(static))
  return lambda *args, **kwargs: jax.device_get(jitted(*args, **kwargs))


def gradient(loss):
  """Of a loss that returns more than its value: ((value, more), gradient)."""
  return compiled(jax.value_and_grad(loss, has_aux=True))


def layer_norm(x, p):
  mean = x.mean(-1, keepdims=True)
  var = ((x - mean) ** 2).mean(-1, keepdims=True)
  return (x - mean) / jnp.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
  return x @ p["kernel"].reshape(x.shape[-1], -1) + p["bias"].reshape(-1)


def gelu(x):
  return 0.5 * x * (1 + erf(x / 2**0.5))


def block(x, p, heads, seen=None, *, activation=gelu):
  """As in timm; attention is to the tokens in `seen` bool[b, t]."""
  b, t, d = x.shape
  qkv = linear(layer_norm(x, p["norm1"]), p["attn"]["qkv"])
  q, k, v = qkv.reshape(b, t, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
  logits = q @ k.swapaxes(-1, -2) / (d // heads) ** 0.5
  if seen is not None:
    logits = jnp.where(seen[:, None, None], logits, -jnp.inf)
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  weights = weights / weights.sum(-1, keepdims=True)
  mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(b, t, d)
  proj = p["attn"]["proj"]
  scales = [p[key]["gamma"] if key in p else 1 for key in ("ls1", "ls2")]
  x = x + (mixed @ proj["kernel"].reshape(d, d) + proj["bias"]) * scales[0]
  y = activation(linear(layer_norm(x, p["norm2"]), p["mlp"]["fc1"]))
  return x + linear(y, p["mlp"]["fc2"]) * scales[1]


def blocks(x, params, heads, seen=None, *, activation=gelu):
  """All blocks of a tree, and its last LayerNorm."""
  for i in range(sum(name.startswith("blocks_") for name in params)):
    x = block(x, params[f"blocks_{i}"], heads, seen, activation=activation)
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


def batch_norm(x, p=None, groups=1):
  """By the statistics of the batch [n, c], or of consecutive parts of it."""
  parts = x.reshape(groups, -1, x.shape[-1])
  mean, var = parts.mean(1, keepdims=True), parts.var(1, keepdims=True)
  x = ((parts - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)
  return x if p is None else x * p["scale"] + p["bias"]


def siamese(x, params, groups=1):
  """`tiny.Convs` and a head, by the batch's own statistics.

  Returns:
    The head's output; and what each BatchNorm is given, for its statistics.
  """
  h, given = convs(x, params["backbone"], groups)
  z, last = head(h, params["projector"], groups)
  return z, {"backbone": given, "projector": last}


def convs(x, params, groups=1):
  """`tiny.Convs`.

  Returns:
    As `siamese`.
  """
  given = {}
  for i in (1, 2):
    layer = params[f"conv{i}"]["kernel"]
    x = jax.lax.conv_general_dilated(
      x, layer, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    given[f"bn{i}"] = flat = x.reshape(-1, x.shape[-1])
    flat = batch_norm(flat, params[f"bn{i}"], groups)
    x = jnp.log1p(jnp.exp(flat)).reshape(x.shape)
  return x.mean((1, 2)), given


def prototypes(x, params):
  """DINO's head: an MLP with GELU, and cosines to the prototypes."""
  depth = sum(name.startswith("fc") for name in params)
  for i in range(1, depth + 1):
    x = linear(x, params[f"fc{i}"])
    if i < depth:
      x = gelu(x)
  return unit(x) @ unit(params["prototypes"]).T * params.get("scale", 1)


def head(x, params, groups=1, plain=False):
  """Linear layers, ReLU between; BatchNorm where there are parameters of it.

  Args:
    x: [n, d].
    params: of the head.
    groups: see `batch_norm`.
    plain: whether the output has a BatchNorm without parameters.

  Returns:
    As `siamese`.
  """
  given = {}
  depth = sum(name.startswith("fc") for name in params)
  for i in range(1, depth + 1):
    layer, bn = params[f"fc{i}"], f"bn{i}"
    x = x @ layer["kernel"] + layer.get("bias", 0)
    if bn in params or (plain and i == depth):
      given[bn] = x
      x = batch_norm(x, params.get(bn), groups)
    x = jnp.maximum(x, 0) if i < depth else x
  return x, given


def running(old, given, groups=1, momentum=0.9):
  """The running statistics of a network after a batch, as torch has them.

  With groups, the mean of the devices that have one each.
  """
  new = {}
  for name, x in given.items():
    parts = x.reshape(groups, -1, x.shape[-1])
    of = {"mean": parts.mean((0, 1)), "var": parts.var(1, ddof=1).mean(0)}
    new[name] = jax.tree.map(
      lambda a, b: momentum * a + (1 - momentum) * b, old[name], of
    )
  return new


def moments(stats, given, groups=1):
  """`running` of several networks."""
  moved = {name: running(stats[name], x, groups) for name, x in given.items()}
  return {**stats, **moved}


def sinkhorn(scores, iterations):
  """SwAV's code on one process: codes [b, K] of scores over epsilon [b, K].

  In numpy and float64, or in jax.numpy.
  """
  xp = scores.__array_namespace__()
  q = xp.exp(xp.astype(scores, xp.float64) - scores.max()).T
  k, b = q.shape
  q = q / q.sum()
  for _ in range(iterations):
    q = q / q.sum(axis=1, keepdims=True) / k
    q = q / q.sum(axis=0, keepdims=True) / b
  return (q * b).T


def cosine(done):
  """Half a cosine, from 1 to 0."""
  return 0.5 * (1 + np.cos(np.pi * done))


def follow(old, new, kept):
  """The moving average of a teacher, of which a share is kept."""
  return jax.tree.map(lambda a, b: kept * a + (1 - kept) * b, old, new)


def descend(
  params, velocity, grads, rate, direction=lambda g, p: g, vectors=None
):
  """torch's SGD with a momentum of 0.9.

  Args:
    params: before the step.
    velocity: of the same structure.
    grads: the gradients.
    rate: the learning rate.
    direction: what becomes of a gradient and its parameter.
    vectors: the rate of biases and norms, if they have another.

  Returns:
    New parameters and velocity.
  """
  velocity = jax.tree.map(
    lambda v, g, p: 0.9 * v + direction(g, p), velocity, grads, params
  )
  rates = {1: rate if vectors is None else vectors}
  params = jax.tree.map(
    lambda p, v: p - rates.get(p.ndim, rate) * v, params, velocity
  )
  return params, velocity


def lars(g, p, decay, spare=True):
  """The direction of LARS; biases and norms have neither decay nor trust."""
  if spare and p.ndim == 1:
    return g
  g = g + decay * p
  norms = np.linalg.norm(p), np.linalg.norm(g)
  return g * (1e-3 * norms[0] / norms[1] if min(norms) > 0 else 1)


def adamw(params, moments, grads, t, rate, *, b2, decay, eps):
  """torch's AdamW with a first beta of 0.9.

  Args:
    params: before the step.
    moments: first and second, of the same structure; None at first.
    grads: the gradients.
    t: steps taken before.
    rate: the learning rate.
    b2: the second beta.
    decay: of a parameter; or a tree of them, where names matter.
    eps: added to the root.

  Returns:
    New parameters and moments.
  """
  first, second = moments or [jax.tree.map(np.zeros_like, params)] * 2
  first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
  second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, grads)
  decays = jax.tree.map(decay, params) if callable(decay) else decay

  def update(p, m, v, decay):
    m, v = m / (1 - 0.9 ** (t + 1)), v / (1 - b2 ** (t + 1))
    return p * (1 - rate * decay) - rate * m / (np.sqrt(v) + eps)

  return jax.tree.map(update, params, first, second, decays), (first, second)


def unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def difference(new, old):
  """The largest relative difference of two trees of arrays, and where it is.

  Each array's is the norm of the error over its own; of one that is far smaller
  than the rest, it is over a hundredth of the norm of all. BatchNorm takes out
  what the bias of the last LayerNorm does, and softmax that of the keys: their
  gradients are zero but for rounding.
  """
  whole = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(old)))

  def relative(a, b):
    error, norm = np.linalg.norm(np.subtract(a, b)), np.linalg.norm(b)
    return error / (norm + 1e-2 * whole) if error else 0.0

  sizes = jax.tree.map(relative, new, old)
  found = [
    (size, jax.tree_util.keystr(path))
    for path, size in jax.tree_util.tree_leaves_with_path(sizes)
  ]
  # What is not a number is no equality.
  return max(
    found, key=lambda x: (not np.isfinite(x[0]), x[0]), default=(0.0, "")
  )


def assert_near(new, old, tolerance):
  """Checks `difference`."""
  largest, name = difference(new, old)
  assert largest <= tolerance, f"{name}: {largest}"
