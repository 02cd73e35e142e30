"""Mixup, CutMix and random erasing against their formulas in numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from sslx.axis import DATA, Axis
from sslx.config import ConfigError
from sslx.data import augment, erasing, mix
from sslx.data.mix import Mix

HEIGHT, WIDTH, CLASSES = 12, 20, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, HEIGHT, WIDTH, 3)).astype(np.float32)
LABELS = np.int32([0, 1, 2, 3, 4, -1, -1, -1, 1, 1, 3, 0, 2, 2, 4, 0])


@functools.partial(jax.jit, static_argnums=(0, 4))
def mixed(settings, images, labels, key, axis=Axis()):
  truth = mix.targets(labels, CLASSES, 0.1)
  return mix.mix(settings, images, truth, key, axis)


def test_targets():
  got = mix.targets(jnp.int32([2, -1, 0]), 5, 0.1)
  wanted = np.full((3, 5), 0.02)
  wanted[0, 2] = wanted[2, 0] = 0.92
  wanted[1] = 0
  np.testing.assert_allclose(got, wanted, atol=1e-7)
  np.testing.assert_array_equal(
    mix.targets(jnp.int32([1]), 3), [[0.0, 1.0, 0.0]]
  )


@pytest.mark.parametrize(
  "settings", [Mix(cutmix=0.0), Mix(mixup=0.0)], ids=["mixup", "cutmix"]
)
def test_pairs_are_mixed(settings):
  for seed in range(4):
    key = jax.random.key(seed)
    own, share = map(np.asarray, mix.draw(settings, key, HEIGHT, WIDTH))
    images, truth = mixed(settings, IMAGES, LABELS, key)
    for i, label in enumerate(LABELS):
      j = i ^ 1
      wanted = own[..., None] * IMAGES[i] + (1 - own[..., None]) * IMAGES[j]
      np.testing.assert_allclose(images[i], wanted, atol=1e-6)
      row = np.zeros(CLASSES)
      for part, one in ((share, label), (1 - share, LABELS[j])):
        if one >= 0:
          row += part * (0.1 / CLASSES + 0.9 * (np.arange(CLASSES) == one))
      np.testing.assert_allclose(truth[i], row, atol=1e-6)
    # Pairs: two labels, one label, none.
    sums = np.asarray(truth).sum(1)
    np.testing.assert_allclose(sums[:4], 1, atol=1e-6)
    np.testing.assert_allclose(sums[4:6], [share, 1 - share], atol=1e-6)
    np.testing.assert_array_equal(sums[6:8], 0)
    if not settings.mixup:
      assert set(own.ravel()) <= {0.0, 1.0}
      rows, columns = np.nonzero(own == 0)
      if len(rows):
        box = own[
          rows.min() : rows.max() + 1, columns.min() : columns.max() + 1
        ]
        assert not box.any()


def cut_share(rng):
  """The rule of timm's `rand_bbox`, with numpy's generator."""
  ratio = math.sqrt(1 - rng.beta(1.0, 1.0))
  area = 1
  for side in (HEIGHT, WIDTH):
    size, centre = int(side * ratio), rng.integers(side)
    low, high = centre - size // 2, centre + (size + 1) // 2
    area *= min(high, side) - max(low, 0)
  return 1 - area / (HEIGHT * WIDTH)


def test_shares_have_timms_distribution():
  many = 3000
  keys = jax.random.split(jax.random.key(1), many)

  def drawn(settings):
    draw = lambda key: mix.draw(settings, key, HEIGHT, WIDTH)
    own, share = map(np.asarray, jax.jit(jax.vmap(draw))(keys))
    np.testing.assert_allclose(own.mean((1, 2)), share, atol=1e-6)
    return share, np.ptp(own, axis=(1, 2)) > 0

  rng = np.random.default_rng(0)
  cut = [cut_share(rng) for _ in range(many)]
  share, boxed = drawn(Mix())
  assert abs(boxed.sum() - many * 0.5 * np.mean(np.array(cut) < 1)) < 120
  beta = scipy.stats.beta(0.8, 0.8)
  assert scipy.stats.kstest(share[~boxed & (share < 1)], beta.cdf).pvalue > 1e-3
  share, _ = drawn(Mix(mixup=0.0))
  assert scipy.stats.ks_2samp(share, cut).pvalue > 1e-3


@pytest.mark.slow
def test_devices_and_micro_batches_do_not_matter():
  key, settings = jax.random.key(2), Mix(mixup=0.0)
  wanted = mixed(settings, IMAGES, LABELS, key)
  close = functools.partial(np.testing.assert_allclose, atol=1e-6)
  for n in (2, 8):
    mesh = jax.make_mesh((n,), (DATA,), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, P(DATA))
    batch = jax.device_put((IMAGES, LABELS), split)
    program = mixed.lower(settings, *batch, key, Axis(sharding=split)).compile()
    found = program(*batch, key)
    jax.tree.map(close, found, wanted)
    assert found[0].sharding.is_equivalent_to(split, 4)
    for collective in ("all-gather", "all-reduce", "all-to-all", "permute("):
      assert collective not in program.as_text()
    per_device = jax.shard_map(
      lambda *x: mixed(settings, *x, Axis(DATA)),
      mesh=mesh,
      in_specs=(P(DATA), P(DATA), P()),
      out_specs=P(DATA),
    )
    jax.tree.map(close, jax.jit(per_device)(*batch, key), wanted)
  mesh = jax.make_mesh((2,), (DATA,), axis_types=(AxisType.Auto,))
  whole = Axis(sharding=NamedSharding(mesh, P(DATA)))
  parts = []
  for i in range(2):
    take = lambda x, i=i: whole.micro_batch(jnp.asarray(x), i, 2)
    parts.append(mixed(settings, take(IMAGES), take(LABELS), key, whole))
  joined = jax.tree.map(lambda *x: whole.whole_batch(jnp.stack(x)), *parts)
  jax.tree.map(close, joined, wanted)


def test_an_odd_number_of_images():
  key = jax.random.key(0)
  for b in (1, 3):
    message = rf"batch_size is {b}, over 1 devices; .* a multiple of 2\."
    with pytest.raises(ConfigError, match=message):
      mixed(Mix(), IMAGES[:b], LABELS[:b], key)
  mesh = jax.make_mesh((8,), (DATA,), axis_types=(AxisType.Auto,))
  axis = Axis(sharding=NamedSharding(mesh, P(DATA)), part=(0, 2))
  message = r"is 16, over 8 devices and 2 micro-batches; .* a multiple of 32\."
  with pytest.raises(ConfigError, match=message):
    mixed(Mix(), IMAGES[:8], LABELS[:8], key, axis)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"mixup": -1}, "mixup is -1; it must be 0 or more"),
    ({"mixup": 0, "cutmix": 0}, "cutmix is 0; it must be above 0, or mixup"),
  ],
)
def test_a_wrong_setting(settings, message):
  with pytest.raises(ValueError, match=message):
    Mix(**settings)


def erased_box(rng, height, width, probability):
  """The rule of timm's `RandomErasing`, with numpy's generator."""
  if rng.random() > probability:
    return 0, 0, 0, 0
  for _ in range(10):
    area = rng.uniform(0.02, 1 / 3) * height * width
    ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
    h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if h < height and w < width:
      return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
  return 0, 0, 0, 0


def test_erased_boxes_have_timms_distribution():
  many, size = 4000, (16, 40)
  keys = augment.example_keys(jax.random.key(0), jnp.arange(many))
  draw = jax.jit(erasing.random_boxes, static_argnums=(1, 2, 3))
  boxes = np.asarray(draw(keys, *size, 0.5))
  rng = np.random.default_rng(0)
  wanted = np.array([erased_box(rng, *size, 0.5) for _ in range(many)])
  for mine, theirs in zip(boxes.T, wanted.T, strict=True):
    assert scipy.stats.ks_2samp(mine, theirs).pvalue > 1e-3
  assert (boxes[:, :2] + boxes[:, 2:] <= size).all()
  assert abs((boxes[:, 2] > 0).sum() - many / 2) < 150


def test_erased_pixels_are_noise_and_the_others_stay():
  many, size = 400, (14, 15)
  keys = augment.example_keys(jax.random.key(0), jnp.arange(many))
  images = 9 + np.arange(many * 14 * 15 * 3, dtype=np.float32)
  images = images.reshape(many, *size, 3)
  erase = jax.jit(erasing.erase)
  got = np.asarray(erase(images, keys))
  boxes = np.asarray(erasing.random_boxes(keys, *size, 0.25))
  noise = []
  for image, result, (top, left, tall, wide) in zip(
    images, got, boxes, strict=True
  ):
    box = slice(top, top + tall), slice(left, left + wide)
    noise.append(result[box].ravel())
    result = result.copy()
    result[box] = image[box]
    np.testing.assert_array_equal(result, image)
  noise = np.concatenate(noise)
  assert len(noise) > 2000
  assert scipy.stats.kstest(noise, "norm").pvalue > 1e-3
  rows = RNG.permutation(many)
  again = erase(images[rows], keys[rows])
  np.testing.assert_array_equal(again, got[rows])
