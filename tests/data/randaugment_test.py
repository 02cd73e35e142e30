"""RandAugment against Pillow, one operation and drawn ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps

from sslx import config
from sslx.data import augment, pillow, randaugment, views
from sslx.data.pillow import Op
from sslx.data.randaugment import RandAugment
from tests.data import photos

FILL = (124, 116, 104)  # the mean of ImageNet, in bytes


def affine(image, a, b, c, d, e, f):
  matrix = (a, b, c, d, e, f)
  return image.transform(
    image.size, Image.AFFINE, matrix, Image.BILINEAR, fillcolor=FILL
  )


def added(image, x):
  table = [min(255, i + int(x)) if i < 128 else i for i in range(256)]
  return image.point(table * 3)


def posterized(image, x):
  # Pillow 13 refuses to keep no bits; before, that made an image black.
  return ImageOps.posterize(image, int(x)) if x else image.point(lambda v: 0)


REFERENCES = {
  Op.AUTOCONTRAST: lambda im, x: ImageOps.autocontrast(im),
  Op.EQUALIZE: lambda im, x: ImageOps.equalize(im),
  Op.INVERT: lambda im, x: ImageOps.invert(im),
  Op.ROTATE: lambda im, x: im.rotate(x, Image.BILINEAR, fillcolor=FILL),
  Op.POSTERIZE: posterized,
  Op.SOLARIZE: lambda im, x: ImageOps.solarize(im, x),
  Op.SOLARIZE_ADD: added,
  Op.COLOUR: lambda im, x: ImageEnhance.Color(im).enhance(x),
  Op.CONTRAST: lambda im, x: ImageEnhance.Contrast(im).enhance(x),
  Op.BRIGHTNESS: lambda im, x: ImageEnhance.Brightness(im).enhance(x),
  Op.SHARPNESS: lambda im, x: ImageEnhance.Sharpness(im).enhance(x),
  Op.SHEAR_X: lambda im, x: affine(im, 1, x, 0, 0, 1, 0),
  Op.SHEAR_Y: lambda im, x: affine(im, 1, 0, 0, x, 1, 0),
  Op.TRANSLATE_X: lambda im, x: affine(im, 1, 0, x * im.width, 0, 1, 0),
  Op.TRANSLATE_Y: lambda im, x: affine(im, 1, 0, 0, 0, 1, x * im.height),
}
ARGUMENTS = {
  Op.ROTATE: (-30.0, 0.0, 17.3, 30.0),
  Op.POSTERIZE: (0, 1, 3, 4),
  Op.SOLARIZE: (0, 26, 128, 256),
  Op.SOLARIZE_ADD: (0, 50, 99, 110),
  **dict.fromkeys(pillow.BLENDS, (0.1, 0.37, 1.0, 1.9)),
  Op.SHEAR_X: (-0.3, 0.0, 0.111, 0.3),
  Op.SHEAR_Y: (-0.3, 0.0, 0.111, 0.3),
  Op.TRANSLATE_X: (-0.45, 0.0, 0.111, 0.45),
  Op.TRANSLATE_Y: (-0.45, 0.0, 0.111, 0.45),
}


def pictures():
  """A photo, one without extreme values, one of one colour, one of noise."""
  photo = photos.photo(18, 27)
  plain = np.full_like(photo, 77)
  noise = np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8)
  return [photo, 40 + photo // 2, plain, noise]


@jax.jit
def apply(images, op, argument):
  fill = np.float32(FILL)
  move = lambda *x: pillow.move(*x, fill)
  found = jnp.zeros_like(images)
  for ops, operation in (
    (pillow.TABLES, pillow.by_table),
    (pillow.MOVES, move),
    (pillow.BLENDS, pillow.blend),
  ):
    mine = jnp.isin(op, np.array(ops))[:, None, None, None]
    found = jnp.where(mine, operation(images, op, argument), found)
  return jnp.floor(found)


def test_each_operation_is_that_of_pillow():
  rows = [
    (picture, op, x)
    for op in Op
    for picture in pictures()
    for x in ARGUMENTS.get(op, (0,))
  ]
  images, ops, given = map(np.array, zip(*rows, strict=True))
  got = apply(np.float32(images), ops, np.float32(given))
  for image, op, x, result in zip(images, ops, given, got, strict=True):
    wanted = REFERENCES[op](Image.fromarray(image), float(x))
    error = np.abs(np.asarray(wanted, np.float32) - result)
    # Pillow rounds some of its coefficients, so a value may fall to the next.
    assert error.max() <= 1 and (error > 0).mean() < 0.05, (Op(op).name, x)


def test_small_images_and_both_ways_to_count():
  rng = np.random.default_rng(0)
  for side in (1, 2):
    images = rng.integers(0, 256, (15, side, 3, 3))
    got = pillow.blend(jnp.float32(images), jnp.arange(15), jnp.ones(15))
    np.testing.assert_array_equal(got[7:11], images[7:11])
  values = np.int32(rng.integers(0, 256, (2, 40, 3)))
  counts = pillow._counts_by_comparison(values)
  for b, c in np.ndindex(2, 3):
    wanted = np.bincount(values[b, :, c], minlength=256)
    np.testing.assert_array_equal(counts[b, :, c], wanted)
  table = np.int32(rng.integers(0, 256, (2, 256, 3)))
  wanted = np.take_along_axis(table, values, axis=1)
  found = pillow._looked_up_by_comparison(table, values)
  np.testing.assert_array_equal(found, wanted)


def keys(b, seed=0):
  return augment.example_keys(jax.random.key(seed), jnp.arange(b))


def test_what_is_drawn():
  many = 4000
  settings = RandAugment(n=3, magnitude=6, std=2)
  draw = jax.jit(randaugment.draw, static_argnums=0)
  op, argument, applied = map(np.asarray, draw(settings, keys(many)))
  assert op.shape == argument.shape == applied.shape == (many, 3)
  for n in range(3):
    counts = np.bincount(op[:, n], minlength=15)
    assert len(counts) == 15 and scipy.stats.chisquare(counts).pvalue > 1e-3
    assert abs(applied[:, n].sum() - many / 2) < 4 * np.sqrt(many / 4)
  signs = (op == Op.SHEAR_X) & (argument != 0)
  magnitude = np.abs(argument[signs]) / 0.03
  assert magnitude.max() == pytest.approx(10)
  inner = scipy.stats.truncnorm(-3, 2, 6, 2)  # below 10, where it is clipped
  below = magnitude[magnitude < 9.999]
  assert scipy.stats.kstest(below, inner.cdf).pvalue > 1e-3
  assert abs((argument[signs] > 0).mean() - 0.5) < 0.1
  columns = [*op.T, *applied.T, *(argument > 0).T]
  assert (abs(np.corrcoef(columns[:6]) - np.eye(6)) < 0.1).all()
  # Fewer operations or another strength change no other draw.
  again = draw(RandAugment(n=3, std=0), keys(many))
  np.testing.assert_array_equal(again.op, op)
  assert np.asarray(again.argument)[op == Op.POSTERIZE].max() == 1


def test_arguments_at_some_magnitudes():
  found = randaugment.arguments(jnp.float32([0, 5, 9, 10]), jnp.float32(-1))
  wanted = {
    Op.ROTATE: (0, -15, -27, -30),
    Op.POSTERIZE: (4, 2, 1, 0),
    Op.SOLARIZE: (256, 128, 26, 0),
    Op.SOLARIZE_ADD: (0, 55, 99, 110),
    **dict.fromkeys(pillow.BLENDS, (1, 0.55, 0.19, 0.1)),
    **dict.fromkeys((Op.SHEAR_X, Op.SHEAR_Y), (0, -0.15, -0.27, -0.3)),
    **dict.fromkeys(
      (Op.TRANSLATE_X, Op.TRANSLATE_Y), (0, -0.225, -0.405, -0.45)
    ),
  }
  for op in Op:
    values = wanted.get(op, (0,) * 4)
    np.testing.assert_allclose(found[:, op], values, atol=1e-6)


SMALL = views.Crop(16, rand_augment=RandAugment(std=2.0))
LARGE = views.Crop(64, rand_augment=RandAugment(std=2.0))
colour = jax.jit(lambda view, *x: view.colour(*x), static_argnums=0)


@pytest.mark.parametrize("view", [SMALL, LARGE], ids=["together", "alone"])
def test_a_view_is_what_pillow_makes_of_what_was_drawn(view):
  b, side = 24, view.size
  photo = [photos.photo(side, side + 2, n) for n in range(b)]
  images = np.float32(photo) / 255
  got = np.asarray(colour(view, images, keys(b)))
  drawn = jax.tree.map(np.asarray, randaugment.draw(view.rand_augment, keys(b)))
  told, untouched = view.told(keys(b)), 0
  for i, image in enumerate(photo):
    wanted = Image.fromarray(image)
    mine = [x for x in zip(*(d[i] for d in drawn), strict=True) if x[2]]
    for op, argument, _ in mine:
      wanted = REFERENCES[op](wanted, float(argument))
    error = np.abs(got[i] * 255 - np.asarray(wanted))
    # Where a value is one off, a threshold after it may make it far off.
    assert (error > 1.5).mean() < 0.02
    names = [Op(op).name.lower().replace("_", " ") for op, *_ in mine]
    assert [line.rstrip("-.0123456789 ") for line in told[i]] == names
    if not mine:
      np.testing.assert_array_equal(got[i], images[i])
      untouched += 1
  assert 0 < untouched < b
  # An image's own key decides, not its row.
  rows = np.random.default_rng(0).permutation(b)
  again = colour(view, images[rows], keys(b)[rows])
  np.testing.assert_allclose(again, got[rows], atol=1e-6)


def test_sharded_batches_need_no_communication():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  images = np.float32([photos.photo(16, 18, n) for n in range(24)]) / 255
  expected = colour(SMALL, images, keys(24))
  sharded = jax.device_put((images, keys(24)), split)
  program = jax.jit(SMALL.colour).lower(*sharded).compile()
  np.testing.assert_allclose(program(*sharded), expected, atol=1e-6)
  for collective in ("all-gather", "all-reduce", "all-to-all", "permute("):
    assert collective not in program.as_text()


def test_other_operations_come_after_with_the_same_draws():
  plain = views.Crop(16, grey=0.5, solarize=0.5)
  both = dataclasses.replace(plain, rand_augment=RandAugment(n=1))
  pairs = list(zip(both.told(keys(16)), plain.told(keys(16)), strict=True))
  assert {len(more) - len(words) for more, words in pairs} == {0, 1}
  assert all(more[len(more) - len(words) :] == words for more, words in pairs)


def test_a_config_sets_it():
  section = {"size": 16, "rand_augment": {"magnitude": 5, "n": 3}}
  view = config.build(views.VIEW, section, "data.views.0")
  assert view.rand_augment == RandAugment(n=3, magnitude=5.0)
  assert view.needs_rgb and not views.Crop(16).needs_rgb


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"n": 0}, r"n is 0; it must be 1 or more"),
    ({"magnitude": 11}, r"magnitude is 11.0; it must be 0 to 10"),
    ({"std": -1}, r"std is -1.0; it must be 0 or more"),
    ({"fill": (0, 2, 0)}, r"fill is .* three numbers from 0 to 1"),
  ],
)
def test_a_wrong_setting(wrong, message):
  section = {"size": 16, "rand_augment": wrong}
  with pytest.raises(config.ConfigError, match=rf"rand_augment\.{message}"):
    config.build(views.VIEW, section, "data.views.0")
