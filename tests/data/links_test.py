"""Linked views: the same crop at another size, or with other pixel values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from sslx import config as config_lib
from sslx import experiment as experiment_lib
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data import augment, crops, loader, sets, views
from sslx.data.order import Order
from sslx.data.views import Crop, Patches, Slot
from sslx.methods import simclr
from sslx.recipes import names
from tests import tiny
from tests.data import photos

COUNT, BATCH = 12, 6
ORDER = Order(COUNT, BATCH, steps=COUNT // BATCH, seed=0)
ALL = np.arange(BATCH)
FIRST = Crop(24, count=2, crop_scale=(0.2, 1.0))
OTHER = Crop(20, crop_scale=(0.3, 0.9))
HALF = dataclasses.replace(FIRST, size=12, link=0, interpolation="bicubic")
SAME = dataclasses.replace(FIRST, link=0)
VIEWS = (FIRST, OTHER, HALF, SAME)  # slots 0, 1; 2; 3, 4; 5, 6
SLOTS = (*views.unshuffled(7), Slot(4, shuffled=True))


class Jpegs(tiny.Pixels):
  """Encoded photographs, with their pixels."""

  def __init__(self, kind):
    sides = [(60 + 7 * i, 130 - 5 * i) for i in range(COUNT)]
    shown = [photos.photo(*side, i) for i, side in enumerate(sides)]
    encode = {"jpeg": photos.jpeg, "pixels": np.asarray}[kind]
    self.images = [encode(x) for x in shown]
    self.pixels = [x if kind == "pixels" else crops.decode(x) for x in
                   self.images]  # fmt: skip

  def __len__(self):
    return COUNT

  def read(self, indices):
    labels = np.asarray(indices, np.int32) % self.num_classes
    return [self.images[i] for i in indices], labels


def cutter(images, kinds=VIEWS, rows=ALL, slots=SLOTS):
  return loader.CutViews(images, ORDER, rows, kinds, slots, 1)


def pillow(pixels, cut, size, interpolation):
  """By the definition: crop the box, resize it, mirror it."""
  top, left, tall, wide = map(int, cut.box)
  box = Image.fromarray(pixels[top : top + tall, left : left + wide])
  kind = Image.Resampling[interpolation.upper()]
  out = np.asarray(box.resize((size, size), kind))
  return out[:, ::-1] if cut.flip else out


def psnr(a, b):
  return -10 * np.log10(np.mean((np.float64(a) - b) ** 2) / 255**2 + 1e-9)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg by the fallback", "pixels"])
def test_on_the_host_it_is_the_same_crop(kind, monkeypatch):
  if "fallback" in kind:
    monkeypatch.setattr(crops, "_native", None)
  images = Jpegs(kind.split()[0])
  arrays = cutter(images)(0).arrays
  found = arrays["views"]
  # What is drawn without the linked views, which must not change by them.
  alone = cutter(images, (FIRST, OTHER), slots=views.unshuffled(3))
  for mine, theirs in zip(found, alone(0).arrays["views"], strict=False):
    np.testing.assert_array_equal(mine, theirs)
  sizes = [images.pixels[i].shape[:2] for i in ORDER[0]]
  cuts = alone.cuts(0, ALL, sizes)
  flips = 0
  for row, index in enumerate(ORDER[0]):
    for n in (0, 1):
      (cut,) = cuts[row][n]
      flips += cut.flip
      expected = pillow(images.pixels[index], cut, 12, "bicubic")
      assert psnr(found[3 + n][row], expected) > (32 if kind == "jpeg" else 60)
  assert 0 < flips < 2 * BATCH
  np.testing.assert_array_equal(found[5], found[0])
  np.testing.assert_array_equal(found[6], found[1])
  # The rows of processes, and of a shuffled slot.
  np.testing.assert_array_equal(found[7], found[4][arrays["place"]])
  for rows in (np.array([0, 4]), np.array([1, 2, 3, 5])):
    part = cutter(images, rows=rows, slots=SLOTS[:-1])(0).arrays["views"]
    for mine, whole in zip(part, found[:-1], strict=True):
      np.testing.assert_array_equal(mine, whole[rows])


COLOURS = {
  "jitter": (0.4, 0.4, 0.4, 0.1),
  "grey": 0.4,
  "blur": 0.5,
  "blur_kernel": 3,
  "solarize": 0.4,
}


@pytest.mark.slow
def test_on_the_device_it_is_the_same_crop_and_the_same_colours():
  pixels = np.stack([photos.photo(40, 50, seed) for seed in range(16)])
  keys = augment.example_keys(jax.random.key(3), jnp.arange(16))
  plain, *_, half, _, same, _ = views.make_views(VIEWS, pixels, keys)
  np.testing.assert_array_equal(same, plain)
  numbers = FIRST.uniforms(augment.fold(keys, 0))
  boxes, flips = FIRST.boxes(numbers, 40, 50, jnp)
  assert 0 < flips.sum() < 16
  for row in range(16):
    cut = crops.Cut(boxes[row, 0].tolist(), bool(flips[row]))
    expected = pillow(pixels[row], cut, 12, "bicubic")
    assert psnr(half[row] * 255, expected) > 50

  full = dataclasses.replace(FIRST, count=1, **COLOURS)
  linked = [
    dataclasses.replace(full, link=0),
    Crop(24, crop_scale=(0.2, 1.0), link=0, grey=0.4),
    Crop(12, crop_scale=(0.2, 1.0), link=0, grey=0.4),
    Crop(24, crop_scale=(0.2, 1.0), link=0, solarize=0.4),
  ]
  made = views.make_views((full, *linked), pixels, keys)
  np.testing.assert_array_equal(made[1], made[0])
  greys = [np.ptp(x, axis=-1).max((1, 2)) < 1e-6 for x in made[:4]]
  np.testing.assert_array_equal(greys, [greys[0]] * 4)
  assert 0 < greys[0].sum() < 16
  solarized = np.abs(made[4] - plain).max((1, 2, 3)) > 1e-6
  drawn = views.coloured.draw_colour(full, augment.fold(keys, 0))
  np.testing.assert_array_equal(solarized, drawn.solarized)


RAW = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
VIEW = {"size": 12, "crop_scale": (0.4, 1.0), "interpolation": "bicubic"}


def in_memory():
  pixels = tiny.Pixels().pixels
  return sets.Arrays(pixels, np.arange(len(pixels), dtype=np.int32) % 10, 10)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["host", "device"])
def test_raw_pixels_of_the_same_crop_in_a_run(path, monkeypatch):
  """Also in micro-batches, and one step of it."""
  monkeypatch.setattr(simclr.SimCLR, "linked", True)
  kinds = (VIEW | COLOURS, VIEW | COLOURS | RAW | {"link": 0})
  config = tiny.method_config("simclr", views=kinds)
  images = tiny.Pixels() if path == "host" else in_memory()
  built = experiment_lib.build(config, jax.devices()[:1], (images, images))
  (batch,) = tiny.batches(built, 1)
  make = jax.jit(
    lambda batch, part, parts: built.step.preprocess(
      batch, jax.random.key(0), Axis(part=(part, parts))
    ),
    static_argnums=2,
  )
  view, raw = make(batch, 0, 1)
  assert raw.min() >= 0 and raw.max() <= 1 and raw.max() > 0.9
  mean, std = np.array(built.data.mean), np.array(built.data.std)
  np.testing.assert_allclose(raw, view * std + mean, atol=1e-5)
  for part in range(2):
    micro = jax.tree.map(lambda x, i=part: Axis().micro_batch(x, i, 2), batch)
    found = make(micro, part, 2)
    for mine, whole in zip(found, (view, raw), strict=True):
      expected = Axis().micro_batch(whole, part, 2)
      np.testing.assert_allclose(mine, expected, atol=1e-6)
  metrics, _ = tiny.run_steps(built, built.init_state(), [batch])
  assert np.isfinite(metrics[0]["loss"])


def test_a_method_that_compares_views_takes_no_linked_ones():
  config = tiny.method_config("simclr", views=(VIEW, VIEW | {"link": 0}))
  message = "has a view with link=0, .* SimCLR takes independent views"
  with pytest.raises(ConfigError, match=message):
    experiment_lib.build(config, sets=(in_memory(), in_memory()))


def test_the_name_of_a_recipe_does_not_count_it():
  config = tiny.method_config("simclr")
  for link, name in ((None, "mcrop-1-1"), (0, "")):
    kinds = (VIEW, VIEW | {"size": 6, "link": link})
    with config.unlocked(), config.ignore_type():
      config.data.views = tuple(map(ConfigDict, kinds))
    assert names.facts(config)["crops"] == name
  assert names.facts(config)["data"].endswith("-12")


PATCHES = {"kind": "patches", "size": 5, "resize": 20, "crop": 18}


@pytest.mark.parametrize(
  ("kinds", "message"),
  [
    (({"link": 0}, {}), "views.0.link is 0; it must be None"),
    (({}, {"link": 1}), "views.1.link is 1; it must be .* before it, 0 to 0"),
    (({}, {"link": -1}), "views.1.link is -1; it must be the index"),
    (({}, {}, {"link": 5}), "views.2.link is 5; .* 0 to 1"),
    (({}, {"link": 0}, {"link": 1}), "views.2.link is 1, .* it must be 0"),
    (({}, {"link": 0, "count": 2}), "views.1.count is 2; it must be 1, as"),
    (
      ({}, {"link": 0, "crop_scale": (0.2, 1.0)}),
      r"views.1.crop_scale is \(0.2, 1.0\); it must be \(0.4, 1.0\), as that of"
      " views.0, to which",
    ),
    (({}, {"link": 0, "crop_ratio": (1, 1)}), "views.1.crop_ratio is"),
    (({}, {"link": 0, "flip": 0}), "views.1.flip is 0.0; it must be 0.5"),
    ((PATCHES, {"link": 0}), "views.1.link is 0, a view of kind 'patches'; it"),
    ((PATCHES, PATCHES | {"link": 0, "size": 4}), "views.1.size is 4; .* 5"),
    ((RAW, {}), "views.0.mean is .* it must be None: evaluation gives"),
    (({}, {"mean": (0.0,) * 3}), "views.1.std is None; it must be given if"),
    (({}, {"mean": (0,), "std": (1,)}), "views.1.mean is .* channels=3"),
    (({}, RAW | {"std": (1, 1, 0)}), "views.1.std is .* it must be positive"),
  ],
)
def test_a_wrong_link_or_normalisation(kinds, message):
  config = tiny.method_config(
    "simclr", views=tuple(k if "kind" in k else VIEW | k for k in kinds)
  )
  with pytest.raises(ConfigError, match=rf"^config\.data\.{message}"):
    experiment_lib.build(config, sets=(in_memory(), in_memory()))


def test_linked_patches_are_the_same_patches():
  kinds = (
    Patches(5, 20, 18, grey=0.5),
    Patches(5, 20, 18, link=0, interpolation="bicubic"),
  )
  assert views.drawn(kinds) == (0, 0)
  uniforms = np.random.default_rng(0).random((4, kinds[0].num_uniforms))
  cuts = views.random_cuts(kinds, uniforms, np.full(4, 50), np.full(4, 60))
  for first, second in cuts:
    assert [x.box for x in first] == [x.box for x in second]
    assert all(x.cubic for x in second)


def test_a_config_says_link_and_mean():
  section = VIEW | RAW | {"link": 0}
  found = config_lib.build(views.VIEW, section, "data.views.1")
  assert found.link == 0 and found.mean == (0.0,) * 3
