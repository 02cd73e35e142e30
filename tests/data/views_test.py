"""The settings of views, and the boxes drawn from them, over numpy and jax."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sslx import config
from sslx.data import views
from sslx.data.views import Centre, Crop, Patches
from sslx.data.views.crop import BOX_UNIFORMS, random_boxes

PATCHES = Patches(size=6, resize=40, crop=30)


def uniforms(rows, columns, seed=0, dtype=np.float64):
  return np.random.default_rng(seed).random((rows, columns), dtype)


def one_box(rng, view, height, width):
  """The rule of torchvision's RandomResizedCrop, one image at a time."""
  for _ in range(10):
    area = height * width * rng.uniform(*view.crop_scale)
    ratio = math.exp(rng.uniform(*map(math.log, view.crop_ratio)))
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
  if width / height < view.crop_ratio[0]:
    w, h = width, round(width / view.crop_ratio[0])
  elif width / height > view.crop_ratio[1]:
    w, h = round(height * view.crop_ratio[1]), height
  else:
    w, h = width, height
  return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
  ("height", "width", "settings"),
  [
    (375, 500, {}),
    (40, 70, {"crop_ratio": (0.75, 2.0)}),
    (30, 120, {"crop_scale": (0.5, 1.0)}),  # most draws do not fit
    (700, 333, {"crop_scale": (0.05, 0.14)}),
  ],
)
def test_boxes_have_torchvisions_distribution(height, width, settings):
  view, many = Crop(8, **settings), 4000
  drawn = uniforms(many, BOX_UNIFORMS)
  boxes = random_boxes(view, drawn, height, width)
  assert boxes.dtype == np.int32 and boxes.shape == (many, 4)
  top, left, h, w = boxes.T
  assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
  assert (top + h <= height).all() and (left + w <= width).all()
  rng = np.random.default_rng(1)
  reference = np.array([one_box(rng, view, height, width) for _ in top])
  mine = [*boxes.T, h * w, w / h]
  h, w = reference.T[2:]
  for a, b in zip(mine, [*reference.T, h * w, w / h], strict=True):
    assert scipy.stats.ks_2samp(a, b).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(375, 500), (30, 200), (1, 9)])
def test_boxes_over_numpy_equal_those_over_jax(height, width):
  view = Crop(8)
  drawn = uniforms(5000, BOX_UNIFORMS, dtype=np.float32)
  host = random_boxes(view, drawn, height, width)
  device = random_boxes(view, jnp.asarray(drawn), height, width, jnp)
  assert host.dtype == device.dtype
  # Two exponentials may differ in their last bit, and fall on two sides of a
  # rounding; the place in the slack can then move as well.
  different = np.abs(host - np.asarray(device)).max(axis=1)
  assert (different > 0).mean() < 1e-3
  assert different.max() <= 1


def test_each_image_has_its_own_size():
  height, width = np.array([[10, 300], [400, 30], [1, 1], [224, 224]]).T
  drawn = uniforms(4, BOX_UNIFORMS)
  together = random_boxes(Crop(8), drawn, height, width)
  for i in range(4):
    alone = random_boxes(
      Crop(8), drawn[i : i + 1], int(height[i]), int(width[i])
    )
    np.testing.assert_array_equal(together[i], alone[0])


@pytest.mark.parametrize(
  ("height", "width", "box"),
  [
    (1, 1000, (0, 499, 1, 1)),
    (1000, 1, (499, 0, 1, 1)),
    (1, 1, (0, 0, 1, 1)),
    (2, 500, (0, 248, 2, 3)),
    (500, 2, (248, 0, 3, 2)),
  ],
)
def test_thin_images_give_their_middle(height, width, box):
  view = Crop(8, crop_scale=(0.5, 1.0))
  for xp in (np, jnp):
    drawn = xp.asarray(uniforms(50, BOX_UNIFORMS, dtype=np.float32))
    boxes = random_boxes(view, drawn, height, width, xp)
    np.testing.assert_array_equal(boxes, np.tile(box, (50, 1)))


@pytest.mark.parametrize("edge", [0.0, np.nextafter(np.float32(1), 0)])
def test_the_ends_of_the_uniforms_stay_inside(edge):
  drawn = np.full((1, BOX_UNIFORMS), edge, np.float32)
  for side in range(1, 2100, 7):
    (box,) = random_boxes(Crop(8), drawn, side, side + 3)
    top, left, h, w = box
    assert 0 <= top <= side - h and 0 <= left <= side + 3 - w
    assert h >= 1 and w >= 1
  drawn = np.full((1, PATCHES.num_uniforms), edge, np.float32)
  places = PATCHES.corners(drawn)
  assert places.min() >= 0 and places.max() + PATCHES.size <= PATCHES.resize


def test_patches_lie_in_their_cells_uniformly():
  many = 6000
  drawn = uniforms(many, PATCHES.num_uniforms)
  places = PATCHES.corners(drawn)
  assert places.shape == (many, 9, 2) and places.dtype == np.int32
  # The crop starts at the same place for all nine, and so is in the least of
  # top - 10 row over the patches (cells are of 10), which is its corner plus
  # the least of nine offsets of 0 ... 4.
  grid = np.array([(r, c) for r in range(3) for c in range(3)])
  inside = places - 10 * grid  # corner, 0 ... 10, plus offset, 0 ... 4
  assert inside.min() == 0 and inside.max() == 14
  assert (np.ptp(inside, axis=1) <= 4).all()
  expected = np.convolve(np.ones(11) / 11, np.ones(5) / 5)
  for patch in range(9):
    for axis in range(2):
      found = np.bincount(inside[:, patch, axis], minlength=15)
      assert scipy.stats.chisquare(found, expected * many).pvalue > 1e-4
  # Offsets of one patch say nothing of those of another; the corner they share.
  between = inside[:, 0, 0] - inside[:, 8, 0]
  expected = np.convolve(np.ones(5) / 5, np.ones(5) / 5)
  found = np.bincount(between + 4, minlength=9)
  assert scipy.stats.chisquare(found, expected * many).pvalue > 1e-4
  assert abs(np.corrcoef(between, inside[:, 4, 1])[0, 1]) < 0.05


def test_patches_over_numpy_equal_those_over_jax():
  drawn = uniforms(2000, PATCHES.num_uniforms, dtype=np.float32)
  host = PATCHES.corners(drawn)
  device = PATCHES.corners(jnp.asarray(drawn), jnp)
  np.testing.assert_array_equal(host, device)
  assert host.dtype == device.dtype


def test_each_expands_counts_in_order():
  big, small = Crop(8, count=2), Crop(4, count=3)
  assert views.each((big, small, PATCHES)) == (
    big, big, small, small, small, PATCHES,
  )  # fmt: skip


def test_shapes():
  assert Crop(8, count=4).shape() == (8, 8, 3)
  assert PATCHES.shape(3) == (9, 6, 6, 3)


@pytest.mark.parametrize(
  ("height", "width", "box"),
  [
    # Short side to 256 and the central 224: 7/8 of the short side.
    (256, 256, (16, 16, 224, 224)),
    (512, 1024, (32, 288, 448, 448)),
    (100, 40, (32.5, 2.5, 35, 35)),
    (1, 3, (0.0625, 1.0625, 0.875, 0.875)),
  ],
)
def test_the_centre_is_what_resize_and_central_crop_see(height, width, box):
  found = Centre(224, 256).box(height, width)
  np.testing.assert_allclose(found, box)


def patches(**changes):
  return Patches(**{"size": 6, "resize": 40, "crop": 30} | changes)


@pytest.mark.parametrize(
  ("make", "settings", "message"),
  [
    (Crop, {"size": 0}, "size is 0; it must be 1 or more"),
    (Crop, {"count": 0}, "count is 0; it must be 1 or more"),
    (
      Crop,
      {"count": 10**12},
      "count is 1000000000000; it must be at most 1000",
    ),
    (Crop, {"crop_scale": (0.5, 1.1)}, "crop_scale is .*; it must be at most"),
    (Crop, {"crop_scale": (0.5, 0.4)}, "crop_scale is .* 0 < low <= high"),
    (Crop, {"crop_ratio": (0.0, 1.0)}, "crop_ratio is .* 0 < low <= high"),
    (Crop, {"crop_ratio": (1.0, math.nan)}, "crop_ratio is .*nan"),
    (Crop, {"flip": -0.1}, "flip is -0.1; it must be a probability, 0 to 1"),
    (Crop, {"interpolation": "area"}, "'area'; it must be 'bilinear' or"),
    (patches, {"size": 11}, "size is 11; it must be at most crop / 3 = 10"),
    (patches, {"size": 0}, "size is 0; it must be 1 or more"),
    (patches, {"crop": 31}, "crop is 31; it must be a multiple of 3"),
    (patches, {"crop": 42}, "crop is 42; it must be at most 40"),
    (patches, {"count": 2}, "count is 2; it must be 1"),
    (patches, {"grey": 1.5}, "grey is 1.5; it must be a probability, 0 to 1"),
    (patches, {"interpolation": "lanczos"}, "'lanczos'; it must be"),
    (Centre, {"size": 0}, "size is 0; it must be 1 or more"),
    (Centre, {"size": 224, "resize": 200}, "resize is 200; .* 224 or more"),
    (Centre, {"interpolation": ""}, "interpolation is ''"),
  ],
)
def test_bad_settings_name_the_key_and_what_is_accepted(
  make, settings, message
):
  with pytest.raises(ValueError, match=message):
    make(**({"size": 8} if make is Crop else {}) | settings)


@dataclasses.dataclass(frozen=True)
class Section:
  views: tuple[views.VIEW, ...]


def build(*sections):
  return config.build(Section, {"views": list(sections)}, "data").views


def test_the_kind_chooses_the_class_and_a_view_needs_none():
  patch = {"kind": "patches", "size": 6, "resize": 40, "crop": 30}
  found = build({"size": 8}, patch, {"kind": "crop", "size": 9, "flip": 0})
  assert found == (Crop(8), patches(), Crop(9, flip=0.0))


@pytest.mark.parametrize(
  ("section", "message"),
  [
    (
      {"kind": "patch", "size": 8},
      r"config\.data\.views\.1\.kind is 'patch'; it must be one of 'crop',"
      " 'patches'",
    ),
    ({"kind": ["crop"], "size": 8}, r"config\.data\.views\.1\.kind is \['crop"),
    ({"kind": None, "size": 8}, r"config\.data\.views\.1\.kind is None"),
    # Keys of the other kind are unknown here.
    ({"size": 8, "resize": 40}, r"config\.data\.views\.1\.resize does not"),
    (
      {"kind": "patches", "size": 8, "crop": 30},
      r"config\.data\.views\.1\.resize is missing; it must be int",
    ),
    (
      {"kind": "patches", "size": 8, "resize": 40, "crop": 31},
      r"config\.data\.views\.1\.crop is 31",
    ),
    (8, r"config\.data\.views\.1 is 8; it must be a group of keys"),
  ],
)
def test_a_wrong_view_is_one_clear_error(section, message):
  with pytest.raises(config.ConfigError, match=message):
    build({"size": 8}, section)
