"""ViT against timm, the official formulas, and what is asked of its memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sslx import models
from sslx.config import ConfigError, build
from sslx.models import patches, transformer, vit

TINY = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "image_size": 16}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu_and_its_derivative_are_exact_also_in_shard_map(dtype):
  x = np.asarray(jnp.linspace(-8, 8, 1024).astype(dtype))
  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))

  def mapped(function):
    spec = jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
    return np.asarray(jax.jit(mapped)(x))

  value = mapped(transformer.gelu)
  slope = mapped(jax.vmap(jax.grad(transformer.gelu)))
  assert value.dtype == slope.dtype == dtype
  x = x.astype(np.float64)
  cdf, pdf = scipy.stats.norm.cdf(x), scipy.stats.norm.pdf(x)
  close = {"rtol": 1e-5 if dtype == jnp.float32 else 1e-2, "atol": 1e-6}
  np.testing.assert_allclose(value.astype(np.float64), x * cdf, **close)
  np.testing.assert_allclose(slope.astype(np.float64), cdf + x * pdf, **close)


def test_the_fused_kernel_needs_a_gpu():
  module = vit.ViT(**TINY, attention="cudnn", dtype="bfloat16")
  with pytest.raises(ConfigError, match="but this runs on cpu; use 'xla'"):
    shapes_of(module, 16)


def shapes_of(module, size):
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  init = lambda x: module.init(jax.random.key(0), x, train=False)
  return jax.eval_shape(init, images)["params"]


def random_params(module, size, seed=0):
  """Arbitrary parameters, so that no zero or one hides a layer."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    names = [key.key for key in path]
    if names[-1] == "kernel":
      inputs = np.prod(leaf.shape[: 2 if "proj" in names else 1])
      if names[0] == "patch_embed":
        inputs = leaf.shape[0]
      x = rng.normal(0, inputs**-0.5, leaf.shape)
    else:
      x = (names[-1] == "scale") + rng.normal(0, 0.3, leaf.shape)
    return x.astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes_of(module, size))


@pytest.fixture(scope="module")
def tiny():
  module = vit.ViT(**TINY)
  images = np.random.default_rng(1).normal(size=(4, 16, 16, 3))
  return module, random_params(module, 16), images.astype(np.float32)


def to_timm(params, module):
  """A timm state dict of our parameters."""
  import torch

  state = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    names = [key.key for key in path]
    leaf = np.asarray(leaf)
    if names[-1] == "kernel":
      if "patch_embed" in names:
        p = module.patch_size
        leaf = leaf.reshape(p, p, 3, -1).transpose(3, 2, 0, 1)
      elif "qkv" in names:
        leaf = leaf.reshape(len(leaf), -1).T
      else:
        leaf = leaf.reshape(-1, leaf.shape[-1]).T
    elif "qkv" in names:
      leaf = leaf.reshape(-1)
    names[-1] = {"kernel": "weight", "scale": "weight"}.get(
      names[-1], names[-1]
    )
    name = ".".join(names).replace("blocks_", "blocks.")
    state[name] = torch.from_numpy(leaf.copy())
  width, grid = module.sizes[0], module.image_size // module.patch_size
  positions = patches.sincos(
    patches.scaled(grid, grid, grid), width, module.position_order
  )
  positions = np.concatenate([np.zeros((1, width), np.float32), positions])
  state["pos_embed"] = torch.from_numpy(positions)[None]
  return state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["small", "base"])
def test_equals_timm(variant):
  reason = "needs timm: pip install -e '.[torch]'"
  timm = pytest.importorskip("timm", reason=reason)
  torch = pytest.importorskip("torch", reason=reason)
  module = vit.ViT(variant=variant)
  params = random_params(module, 224)
  images = np.random.default_rng(1).normal(size=(2, 224, 224, 3))
  images = images.astype(np.float32)
  theirs = timm.create_model(f"vit_{variant}_patch16_224", num_classes=0)
  theirs.load_state_dict(to_timm(params, module))
  with torch.no_grad():
    expected = theirs.eval().forward_features(
      torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    )
  tokens = jax.jit(
    lambda p, x: module.apply({"params": p}, x, train=False, method="tokens")
  )(params, images)
  np.testing.assert_allclose(tokens, expected.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
  ("variant", "millions"),
  [("tiny", 5.5), ("small", 21.7), ("base", 85.8), ("large", 303.3)],
)
def test_number_of_parameters(variant, millions):
  params = shapes_of(vit.ViT(variant=variant), 224)
  count = sum(x.size for x in jax.tree.leaves(params))
  # Without the positions, which are fixed, and the classifier.
  assert count / 1e6 == pytest.approx(millions, abs=0.35)


def official_positions(width, grid, order):
  """Written out, place by place, after the official code."""
  rows = []
  for row in range(grid):
    for column in range(grid):
      first, second = (column, row) if order == "column" else (row, column)
      waves = []
      for place in (first, second):
        omega = [1 / 10000 ** (i / (width / 4)) for i in range(width // 4)]
        waves += [math.sin(place * w) for w in omega]
        waves += [math.cos(place * w) for w in omega]
      rows.append(waves)
  return np.array(rows, np.float32)


@pytest.mark.parametrize("order", ["column", "row"])
def test_positions_in_each_order(order):
  found = patches.sincos(patches.scaled(5, 5, 5), 16, order)
  expected = official_positions(16, 5, order)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_positions_of_another_size_are_between_those_of_the_trained_one():
  row, column = patches.scaled(4, 4, trained=2)
  np.testing.assert_allclose(column[:4], [-0.25, 0.25, 0.75, 1.25])
  np.testing.assert_allclose(row[::4], [-0.25, 0.25, 0.75, 1.25])
  same = patches.scaled(14, 14, trained=14)
  rows, columns = np.divmod(np.arange(196), 14)
  np.testing.assert_array_equal(same, (rows, columns))


def test_patches_are_cut_row_by_row_and_put_back():
  images = np.arange(2 * 8 * 12 * 3, dtype=np.float32).reshape(2, 8, 12, 3)
  cut = patches.patchify(images, 4)
  assert cut.shape == (2, 6, 48)
  np.testing.assert_array_equal(
    cut[1, 4], images[1, 4:8, 4:8].reshape(-1), "second row, second column"
  )
  np.testing.assert_array_equal(patches.unpatchify(cut, 4, (2, 3)), images)


def test_features_of_a_dictionary(tiny):
  module, params, images = tiny
  apply = lambda **kw: module.apply({"params": params}, images, **kw)
  tokens = apply(train=False, method="tokens")
  features = apply(train=False, every=True)
  assert tokens.shape == (4, 17, 32)
  np.testing.assert_array_equal(features["cls"], tokens[:, 0])
  np.testing.assert_allclose(
    features["pooled"], tokens[:, 1:].mean(1), atol=1e-6
  )
  assert features["cls+pooled"].shape == (4, 64)
  np.testing.assert_array_equal(features["final"], features["cls"])
  both = vit.ViT(**TINY, features="cls+pooled")
  final = both.apply({"params": params}, images, train=False)
  np.testing.assert_array_equal(final, features["cls+pooled"])


def test_kept_patches_in_any_order_are_all_that_is_seen(tiny):
  module, params, images = tiny
  see = lambda images, keep: module.apply(
    {"params": params}, images, train=True, keep=keep, method="tokens"
  )
  keep = np.array([[3, 8, 1, 15]] * 4)
  tokens = see(images, keep)
  assert tokens.shape == (4, 5, 32)
  hidden = np.array(patches.patchify(images, 4))
  hidden[:, [i for i in range(16) if i not in keep[0]]] = 1e3
  others = patches.unpatchify(hidden, 4, (4, 4))
  np.testing.assert_array_equal(see(others, keep), tokens)
  np.testing.assert_allclose(
    see(images, keep[:, ::-1])[:, 1:], tokens[:, :0:-1], atol=1e-5
  )
  everything = np.arange(16)[None].repeat(4, 0)
  whole = module.apply({"params": params}, images, train=True, method="tokens")
  np.testing.assert_allclose(see(images, everything), whole, atol=1e-5)


def test_bfloat16_keeps_its_islands(tiny):
  _, params, images = tiny
  module = vit.ViT(**TINY, dtype="bfloat16")
  apply = lambda params: module.apply({"params": params}, images, train=True)
  assert apply(params).dtype == jnp.float32
  text = str(jax.make_jaxpr(apply)(params))
  dots = [x for x in text.splitlines() if "dot_general[" in x or ":bf16" in x]
  assert dots
  assert "exp" in text
  exps = [x for x in text.splitlines() if "= exp " in x]
  assert exps and all(":f32" in x for x in exps), exps
  exact = vit.ViT(**TINY).apply({"params": params}, images, train=True)
  np.testing.assert_allclose(apply(params), exact, atol=0.15)


@pytest.mark.slow
def test_initial_weights_by_each_rule():
  bound, deviation = {}, {}
  for rule in ("xavier", "xavier_qkv", "normal", "normal_all"):
    module = vit.ViT(width=64, depth=1, heads=4, weight_init=rule)
    images = jnp.zeros((1, 224, 224, 3))
    params = module.init(jax.random.key(0), images, train=False)["params"]
    block, embed = params["blocks_0"], params["patch_embed"]["proj"]
    deviation[rule] = {
      "qkv": jnp.std(block["attn"]["qkv"]["kernel"]),
      "proj": jnp.std(block["attn"]["proj"]["kernel"]),
      "fc1": jnp.std(block["mlp"]["fc1"]["kernel"]),
      "fc2": jnp.std(block["mlp"]["fc2"]["kernel"]),
      "embed": jnp.std(embed["kernel"]),
    }
    bound[rule] = {
      "qkv": jnp.abs(block["attn"]["qkv"]["kernel"]).max(),
      "proj": jnp.abs(block["attn"]["proj"]["kernel"]).max(),
      "fc1": jnp.abs(block["mlp"]["fc1"]["kernel"]).max(),
      "embed": jnp.abs(embed["kernel"]).max(),
      "embed_bias": jnp.abs(embed["bias"]).max(),
      "cls": jnp.std(params["cls_token"]),
      "bias": jnp.abs(block["attn"]["qkv"]["bias"]).max(),
    }
  same = {
    "proj": (6 / 128) ** 0.5,
    "fc1": (6 / 320) ** 0.5,
    "embed": (6 / (768 + 64)) ** 0.5,
    "bias": 0.0,
  }
  mae = {"qkv": (6 / 256) ** 0.5, "embed_bias": 768**-0.5, "cls": 0.02}
  moco = {"qkv": (6 / 128) ** 0.5, "embed_bias": 0.0, "cls": 1e-6}
  for rule, own in (("xavier", mae), ("xavier_qkv", moco)):
    for key, value in (same | own).items():
      tolerance = 0.25 if key == "cls" else 0.1
      assert bound[rule][key] == pytest.approx(value, rel=tolerance), key
  for rule in ("normal", "normal_all"):
    for key, value in deviation[rule].items():
      if (rule, key) != ("normal", "embed"):
        assert value == pytest.approx(0.02, rel=0.05), key
  assert bound["normal_all"]["embed_bias"] == 0
  conv = 768**-0.5  # torch's convolution.
  dino = {"cls": 0.02, "bias": 0.0, "embed": conv, "embed_bias": conv}
  for key, value in dino.items():
    tolerance = 0.25 if key == "cls" else 0.1
    assert bound["normal"][key] == pytest.approx(value, rel=tolerance), key


def test_drop_path_leaves_out_branches_of_single_examples(tiny):
  _, params, images = tiny
  module = vit.ViT(**TINY, drop_path=0.5)
  keys = jax.random.split(jax.random.key(0), 4)
  run = lambda images, keys, train=True: module.apply(
    {"params": params}, images, train=train, keys=keys
  )
  whole = run(images, keys)
  for i in range(4):  # Whoever its neighbours are.
    np.testing.assert_allclose(
      run(images[i : i + 1], keys[i : i + 1])[0], whole[i], atol=1e-5
    )
  same = run(np.repeat(images[:1], 64, 0), jax.random.split(keys[0], 64))
  assert 3 <= len(np.unique(np.asarray(same).round(3), axis=0)) <= 8
  plain = vit.ViT(**TINY).apply({"params": params}, images, train=False)
  np.testing.assert_array_equal(run(images, None, train=False), plain)
  with pytest.raises(ConfigError, match=r"drop_path is 0.5, .* use 0"):
    run(images, None)


def test_frozen_patches_get_no_gradient(tiny):
  _, params, images = tiny
  module = vit.ViT(**TINY, frozen_patches=True)
  loss = lambda p: module.apply({"params": p}, images, train=True).sum()
  grads = jax.grad(loss)(params)
  assert not any(np.any(x) for x in jax.tree.leaves(grads["patch_embed"]))
  assert np.any(grads["cls_token"])
  assert module.frozen == ("patch_embed/",)
  assert vit.ViT(**TINY).frozen == ()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"variant": "giant"}, "variant is 'giant'"),
    ({"width": 100, "heads": 3}, "heads is 3; .* 100, is a multiple of it"),
    ({"width": 30, "heads": 3}, "width is 30; it must be a multiple of 4"),
    ({"image_size": 30}, "image_size is 30; .* a multiple of patch_size, 16"),
    ({"drop_path": 1.0}, "drop_path is 1.0"),
    ({"attention": "cudnn"}, "attention is 'cudnn'; it must be 'xla', unless"),
  ],
)
def test_impossible_sizes_are_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    build(models.BACKBONE, {"name": "vit", **changes}, "m")


def test_images_that_patches_do_not_divide_are_refused(tiny):
  module, params, _ = tiny
  with pytest.raises(ConfigError, match="patch_size is 4, .* of 18 x 18 pix"):
    module.apply({"params": params}, np.zeros((1, 18, 18, 3)), train=False)


@pytest.mark.slow
def test_rematerialisation_keeps_a_fifth_for_a_third_more_work():
  """Of ViT-B/16: what the backward pass is left with, beside the parameters."""
  kept, flops = [], []
  for remat in (False, True):
    module = vit.ViT(variant="base", remat=remat)
    params = shapes_of(module, 224)
    images = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    loss = lambda p, x, module=module: jnp.sum(
      jnp.square(module.apply({"params": p}, x, train=True))
    )
    backward = lambda p, x, loss=loss: jax.vjp(loss, p, x)[1]
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    kept.append(size(jax.eval_shape(backward, params, images)) - size(params))
    lowered = jax.jit(jax.grad(loss)).lower(params, images)
    flops.append(lowered.cost_analysis()["flops"])
  assert kept[0] / kept[1] > 5
  assert 1.2 < flops[1] / flops[0] < 1.35


def test_rematerialisation_changes_no_gradient(tiny):
  _, params, images = tiny
  loss = lambda p, remat: jnp.sum(
    vit.ViT(**TINY, remat=remat).apply({"params": p}, images, train=True)
    * np.arange(32)
  )
  plain, again = (jax.grad(loss)(params, remat) for remat in (False, True))
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3)


def test_learned_positions_of_sines_and_cosines_are_the_fixed_ones():
  fixed = vit.ViT(**TINY)
  learned = vit.ViT(**TINY, positions="learned")
  params = random_params(fixed, 16)
  table = official_positions(32, 4, "column")
  table = np.concatenate([np.zeros((1, 32)), table])[None]
  images = np.random.default_rng(1).normal(size=(2, 16, 16, 3))
  wanted = fixed.apply({"params": params}, images, train=False)
  params = params | {"pos_embed": table.astype(np.float32)}
  assert shapes_of(learned, 16)["pos_embed"].shape == (1, 17, 32)
  apply = lambda p: learned.apply({"params": p}, images, train=False)
  np.testing.assert_allclose(apply(params), wanted, atol=1e-5)
  # The class token has one of its own.
  moved = params | {"pos_embed": params["pos_embed"] + 0.0}
  moved["pos_embed"][:, 0] += 1
  cls = params | {"cls_token": params["cls_token"] + 1}
  np.testing.assert_allclose(apply(moved), apply(cls), atol=1e-5)


def test_layer_scale_is_a_factor_of_each_branch():
  plain = vit.ViT(**TINY)
  scaled = vit.ViT(**TINY, layer_scale=1e-5)
  params = random_params(plain, 16)
  images = np.random.default_rng(1).normal(size=(2, 16, 16, 3))
  gamma = np.random.default_rng(2).uniform(0.5, 2, 32).astype(np.float32)
  drawn = scaled.init(jax.random.key(0), images, train=False)["params"]
  np.testing.assert_allclose(drawn["blocks_1"]["ls2"]["gamma"], 1e-5)
  # The factor of a branch may as well be in its last layer.
  with_gamma, folded = dict(params), dict(params)
  for name in ("blocks_0", "blocks_1"):
    block = params[name]
    scales = {"ls1": {"gamma": gamma}, "ls2": {"gamma": 1 / gamma}}
    with_gamma[name] = block | scales
    times = lambda layer, x: {key: y * x for key, y in layer.items()}
    folded[name] = block | {
      "attn": block["attn"] | {"proj": times(block["attn"]["proj"], gamma)},
      "mlp": block["mlp"] | {"fc2": times(block["mlp"]["fc2"], 1 / gamma)},
    }
  found = scaled.apply({"params": with_gamma}, images, train=False)
  wanted = plain.apply({"params": folded}, images, train=False)
  np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_without_a_class_token_there_are_the_patches_alone():
  module = vit.ViT(**TINY, class_token=False, features="pooled")
  params = random_params(module, 16)
  assert "cls_token" not in params
  images = np.random.default_rng(1).normal(size=(2, 16, 16, 3))
  tokens = module.apply(
    {"params": params}, images, train=False, method="tokens"
  )
  assert tokens.shape == (2, 16, 32)
  found = module.apply({"params": params}, images, train=False, every=True)
  assert set(found) == {"final", "pooled"}
  np.testing.assert_allclose(found["final"], tokens.mean(1), atol=1e-6)
  with pytest.raises(ValueError, match="'pooled' without a class token"):
    vit.ViT(**TINY, class_token=False)


def test_the_last_norm_may_come_after_the_pooling(tiny):
  plain, params, images = tiny
  module = vit.ViT(**TINY, features="pooled", pool_norm=True)
  assert shapes_of(module, 16).keys() ^ params.keys() == {"norm", "fc_norm"}
  norm = params["norm"]
  mine = {k: x for k, x in params.items() if k != "norm"} | {"fc_norm": norm}
  apply = lambda module, params, **kw: jax.jit(
    lambda p, x: module.apply({"params": p}, x, train=False, **kw)
  )(params, images)

  def normed(x):
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    return centred / scale * norm["scale"] + norm["bias"]

  tokens = np.asarray(apply(module, mine, method="tokens"), np.float64)
  wanted = apply(plain, params, method="tokens")
  np.testing.assert_allclose(normed(tokens), wanted, atol=1e-5)
  found = apply(module, mine, every=True)
  assert set(found) == {"final", "pooled"}
  wanted = normed(tokens[:, 1:].mean(1))
  np.testing.assert_allclose(found["final"], wanted, atol=1e-5)
  np.testing.assert_array_equal(found["pooled"], found["final"])
  # Of several blocks, each by itself; the last block is last.
  found = apply(module, mine, last=2)
  np.testing.assert_allclose(found[:, -32:], wanted, atol=1e-5)
  with pytest.raises(ConfigError, match="features is 'cls'; .* with pool_norm"):
    section = {"name": "vit", "pool_norm": True}
    build(models.BACKBONE, section, "model.backbone")
