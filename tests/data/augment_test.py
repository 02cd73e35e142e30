"""Device augmentation against formulas in numpy, colorsys, scipy and Pillow."""

import colorsys
import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sslx import config
from sslx.axis import Axis
from sslx.data import augment, operations
from sslx.data import views as views_lib
from sslx.data.views import Crop, coloured


def _images(b, h, w, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (b, h, w, 3), np.uint8)


def _keys(b, seed=0):
  return augment.example_keys(jax.random.key(seed), jnp.arange(b))


SIMCLR = Crop(
  8,
  jitter=(0.4, 0.4, 0.4, 0.1),
  grey=0.2,
  blur=0.5,
  blur_kernel=5,
  solarize=0.2,
)
BATCH = np.arange(16), _images(16, 10, 12)


@functools.partial(jax.jit, static_argnums=0)
def make(views, key, positions, images):
  keys = augment.example_keys(key, positions)
  return views_lib.make_views(views, images, keys)


def augmented(view, images, keys):
  cropped = view.cut(images, keys)
  return coloured.augment_colour(view, cropped, keys)


def sample_boxes(view, keys, height, width):
  boxes, _ = view.boxes(view.uniforms(keys), height, width, jnp)
  return np.array(boxes[:, 0])


def _luma(image):
  return image @ np.array([0.2989, 0.587, 0.114])


def _other(op, image):
  """What brightness, contrast and saturation blend an image with."""
  if op == 0:
    return np.zeros_like(image)
  if op == 1:
    return np.full_like(image, _luma(image).mean())
  return np.repeat(_luma(image)[..., None], 3, axis=-1)


def _adjust(op, image, amount):
  """What torchvision's adjust_* functions make of one float image."""
  if op < 3:
    return np.clip(amount * image + (1 - amount) * _other(op, image), 0, 1)
  out = np.empty_like(image)
  for place in np.ndindex(image.shape[:2]):
    hue, saturation, value = colorsys.rgb_to_hsv(*image[place])
    out[place] = colorsys.hsv_to_rgb((hue + amount) % 1, saturation, value)
  return out


def _jitter_inputs():
  """24 images, one for each order, with plain colours among their pixels."""
  rng = np.random.default_rng(1)
  images = rng.random((24, 4, 5, 3))
  images[:, 0, :, :] = np.eye(5, 3)
  images[:, 1, :2, :] = [[1.0], [0.5]]
  order = np.array(list(itertools.permutations(range(4))))
  blends = rng.uniform(0, 2, (3, 24))
  return images, [*blends, rng.uniform(-0.5, 0.5, 24)], order


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 1, 2), (3,), (1, 3), ()])
def test_color_jitter_in_every_order(kept):
  images, amounts, order = _jitter_inputs()
  given = [np.float32(a) if i in kept else None for i, a in enumerate(amounts)]
  got = jax.jit(operations.color_jitter)(np.float32(images), *given, order)
  amounts = np.transpose(amounts)
  rows = zip(images, order, amounts, got, strict=True)
  for image, steps, amount, result in rows:
    for op in steps:
      if op in kept:
        image = _adjust(op, image, amount[op])
    np.testing.assert_allclose(result, image, atol=1e-5)
  assert 0 <= got.min() and got.max() <= 1


def test_color_jitter_by_one_is_the_identity():
  images, _, order = _jitter_inputs()
  images, one = np.float32(images), np.ones(24, np.float32)
  got = jax.jit(operations.color_jitter)(images, one, one, one, None, order)
  np.testing.assert_array_equal(got, images)


def test_pointwise_operations():
  image = np.random.default_rng(0).random((2, 3, 4, 3), np.float32)
  image[0, 0, 0] = 0.5, 0.25, 1.0
  np.testing.assert_allclose(
    operations.grayscale(image), _other(2, image), atol=1e-6
  )
  for threshold in (0.25, 0.5):
    expected = np.float32([v if v < threshold else 1 - v for v in image.flat])
    solarized = operations.solarize(image, threshold)
    np.testing.assert_array_equal(solarized.ravel(), expected)
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  expected = np.stack(
    [(image[..., c] - mean[c]) / std[c] for c in range(3)], axis=-1
  )
  got = operations.normalize(image, mean, std)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 5, 13])
def test_gaussian_blur(kernel):
  images = np.random.default_rng(0).random((4, 9, 7, 3), np.float32)
  sigma = np.float32([0.1, 0.7, 2.0, 9.0])
  got = operations.gaussian_blur(images, sigma, kernel)
  for result, image, s in zip(got, images, sigma, strict=True):
    expected = scipy.ndimage.gaussian_filter(
      image, s, mode="mirror", radius=kernel // 2, axes=(0, 1)
    )
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_gaussian_blur_refuses_small_images():
  with pytest.raises(ValueError, match="15-tap blur is too wide for 9 x 7"):
    operations.gaussian_blur(jnp.zeros((1, 9, 7, 3)), jnp.ones(1), 15)


def _kernel(name, x):
  x = abs(x)
  if name == "bilinear":
    return max(0.0, 1 - x)
  if x < 1:
    return 1.5 * x**3 - 2.5 * x**2 + 1
  return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _resize_axis0(image, size, name):
  """Antialiased resampling, one output row at a time, as torch states it."""
  scale = len(image) / size
  reach = (1 if name == "bilinear" else 2) * max(scale, 1)
  rows = []
  for i in range(size):
    centre = scale * (i + 0.5)
    first = max(int(centre - reach + 0.5), 0)
    last = min(int(centre + reach + 0.5), len(image))
    weights = np.array(
      [
        _kernel(name, (j - centre + 0.5) / max(scale, 1))
        for j in range(first, last)
      ]
    )
    rows.append(np.tensordot(weights / weights.sum(), image[first:last], 1))
  return np.stack(rows)


BOXES = np.array([
  [0, 0, 16, 20], [3, 5, 7, 7], [15, 19, 1, 1], [0, 8, 16, 2], [2, 1, 13, 19]
])  # fmt: skip
FLIPS = np.array([False, True, False, True, True])
resize = jax.jit(operations.crop_resize, static_argnums=(3, 4))


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [5, 23])
def test_crop_resize(name, size):
  images = _images(5, 16, 20)
  got = resize(images, BOXES, FLIPS, size, name)
  for image, box, flip, result in zip(images, BOXES, FLIPS, got, strict=True):
    top, left, height, width = box
    part = image[top : top + height, left : left + width] / 255
    part = _resize_axis0(part, size, name).swapaxes(0, 1)
    part = np.clip(_resize_axis0(part, size, name).swapaxes(0, 1), 0, 1)
    np.testing.assert_allclose(
      result, part[:, ::-1] if flip else part, atol=1e-5
    )
  as_float = resize(np.float32(images) / 255, BOXES, FLIPS, size, name)
  np.testing.assert_allclose(got, as_float, atol=1e-6)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [5, 23])
def test_crop_resize_agrees_with_pillow(name, size):
  Image = pytest.importorskip("PIL.Image")
  # Away from 0 and 255, where Pillow clips between its two passes.
  images = 64 + _images(5, 16, 20) // 2
  got = resize(images, BOXES, FLIPS, size, name)
  for image, box, flip, result in zip(images, BOXES, FLIPS, got, strict=True):
    top, left, height, width = map(int, box)
    view = Image.fromarray(image).crop((left, top, left + width, top + height))
    view = view.resize((size, size), Image.Resampling[name.upper()])
    if flip:
      view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Pillow rounds to uint8 twice.
    np.testing.assert_allclose(result * 255, np.asarray(view), atol=1.3)


def test_integers_that_are_not_bytes_are_refused():
  with pytest.raises(ValueError, match="images are int32; they must be uint8"):
    augmented(SIMCLR, jnp.zeros((2, 9, 9, 3), jnp.int32), _keys(2))


def _one_box(rng, view, height, width):
  """The rule of torchvision's RandomResizedCrop, with numpy's generator."""
  for _ in range(10):
    area = height * width * rng.uniform(*view.crop_scale)
    ratio = math.exp(rng.uniform(*map(math.log, view.crop_ratio)))
    w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < w <= width and 0 < h <= height:
      return rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
  raise AssertionError("no box in ten draws: choose another seed")


def test_boxes_have_torchvisions_distribution():
  view = Crop(8, crop_ratio=(0.75, 2.0))
  height, width, many = 40, 70, 4000
  boxes = sample_boxes(view, _keys(many), height, width)
  top, left, h, w = boxes.T
  assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
  assert (top + h <= height).all() and (left + w <= width).all()
  assert (h * w >= 0.07 * height * width).all()
  assert (w / h > 0.69).all() and (w / h < 2.2).all()  # in range but rounded
  rng = np.random.default_rng(0)
  reference = np.array([_one_box(rng, view, height, width) for _ in top])
  for mine, theirs in zip(boxes.T, reference.T, strict=True):
    assert scipy.stats.ks_2samp(mine, theirs).pvalue > 1e-3
  mine, theirs = h * w, reference[:, 2] * reference[:, 3]
  assert scipy.stats.ks_2samp(mine, theirs).pvalue > 1e-3


@pytest.mark.parametrize(
  ("height", "width", "ratio", "box"),
  [
    (10, 100, (3 / 4, 4 / 3), (0, 43, 10, 13)),  # too wide: height * 4/3
    (100, 10, (3 / 4, 4 / 3), (43, 0, 13, 10)),  # too tall: width / (3/4)
    (50, 50, (1.2, 1.3), (4, 0, 42, 50)),
    (40, 50, (1.25, 1.25), (0, 0, 40, 50)),
  ],
)
def test_boxes_that_never_fit_are_central(height, width, ratio, box):
  view = Crop(8, crop_scale=(1.0, 1.0), crop_ratio=ratio)
  boxes = sample_boxes(view, _keys(20), height, width)
  np.testing.assert_array_equal(boxes, np.tile(box, (20, 1)))


WHOLE = Crop(6, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0)
RATES = [
  (0.3, {"flip": 0.3}),
  (0.8, {"jitter": (0.4, 0.4, 0.4, 0.1)}),
  (0.2, {"grey": 0.2}),
  (0.5, {"blur": 0.5, "blur_kernel": 3}),
  (0.2, {"solarize": 0.2}),
  (1.0, {"solarize": 1.0}),
  (0.0, {}),
]


@pytest.mark.parametrize(("rate", "settings"), RATES)
def test_each_operation_is_drawn_at_its_rate(rate, settings):
  many = 2000
  images = np.float32(_images(many, 6, 6)) / 255
  view = dataclasses.replace(WHOLE, **settings)
  got = np.array(
    jax.jit(augmented, static_argnums=0)(view, images, _keys(many))
  )
  changed = (got != images).any((1, 2, 3)).sum()  # else equal to the last bit
  sigma = math.sqrt(many * rate * (1 - rate))
  assert abs(changed - many * rate) <= 4 * sigma


def test_parameters_are_drawn_per_image_and_uniformly(monkeypatch):
  drawn = {}

  def crop(images, boxes, flips, size, interpolation, bounded):
    drawn["crop"] = flips, boxes[:, 0], boxes[:, 2] * boxes[:, 3]
    return jnp.zeros((len(images), size, size, 3))

  def jitter(images, *amounts_and_order):
    drawn["jitter"] = [np.array(a) for a in amounts_and_order]
    return images + 1

  def blur(images, sigma, kernel):
    drawn["blur"] = np.array(sigma), kernel
    return images + 2

  monkeypatch.setattr(operations, "crop_resize", crop)
  monkeypatch.setattr(operations, "color_jitter", jitter)
  monkeypatch.setattr(operations, "gaussian_blur", blur)
  view = dataclasses.replace(
    SIMCLR, jitter=(0.4, 1.5, 0.2, 0.1), jitter_prob=0.5
  )
  view = dataclasses.replace(view, grey=0.0, solarize=0.0)
  many = 2400
  marks = augmented(view, _images(many, 32, 32), _keys(many))[:, 0, 0, 0]
  *amounts, order = drawn["jitter"]
  ranges = [(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1), (0.1, 2.0)]
  sigma, kernel = drawn["blur"]
  values = [*amounts, sigma]
  for value, (low, high) in zip(values, ranges, strict=True):
    uniform = scipy.stats.uniform(low, high - low)
    assert value.min() >= low - 1e-6 and value.max() <= high + 1e-6
    assert scipy.stats.kstest(value, uniform.cdf).pvalue > 1e-3
  values += [order[:, 0], marks % 2, marks // 2, *drawn["crop"]]
  together = abs(np.corrcoef(values)) > 0.1
  together[-2:, -2:] = np.eye(2)  # a great box is never far down
  np.testing.assert_array_equal(together, np.eye(11))
  counts = np.unique(order, axis=0, return_counts=True)[1]
  assert len(counts) == 24 and scipy.stats.chisquare(counts).pvalue > 1e-3
  np.testing.assert_array_equal(np.sort(order), np.tile(range(4), (many, 1)))
  assert kernel == SIMCLR.blur_kernel


def test_views_depend_on_the_position_alone():
  key = jax.random.key(3)
  (view,) = make((SIMCLR,), key, *BATCH)
  shuffle = np.random.default_rng(0).permutation(16)
  (again,) = make((SIMCLR,), key, *(a[shuffle] for a in BATCH))
  np.testing.assert_allclose(again, view[shuffle], atol=1e-5)
  for half in (slice(0, 8), slice(8, 16)):
    (part,) = make((SIMCLR,), key, *(a[half] for a in BATCH))
    np.testing.assert_allclose(part, view[half], atol=1e-5)
  (other,) = make((SIMCLR,), jax.random.key(4), *BATCH)
  assert (abs(other - view).max((1, 2, 3)) > 0.1).all()


def test_sharded_batches_need_no_communication():
  key = jax.random.key(3)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  over = PartitionSpec("data")
  split = NamedSharding(mesh, over)
  sharded = jax.device_put(BATCH, split)
  (expected,) = make((SIMCLR,), key, *BATCH)
  program = make.lower((SIMCLR,), key, *sharded).compile()
  (spread,) = program(key, *sharded)
  np.testing.assert_allclose(spread, expected, atol=1e-5)
  assert spread.sharding.is_equivalent_to(split, 4)
  for collective in ("all-gather", "all-reduce", "all-to-all", "permute("):
    assert collective not in program.as_text()
  per_device = jax.shard_map(
    functools.partial(make, (SIMCLR,)),
    mesh=mesh,
    in_specs=(PartitionSpec(), over, over),
    out_specs=over,
  )
  (local,) = jax.jit(per_device)(key, *sharded)
  np.testing.assert_allclose(local, expected, atol=1e-5)


def test_large_images_are_coloured_one_by_one_and_by_their_device():
  side = coloured._ALONE
  images, keys = np.float32(_images(16, side, side + 6)) / 255, _keys(16)
  view = dataclasses.replace(SIMCLR, jitter_prob=0.3, blur=0.3)
  colour = functools.partial(coloured.augment_colour, view)
  together = functools.partial(
    coloured._augment_colour, view, choose=coloured._select
  )
  expected, got = jax.jit(together)(images, keys), jax.jit(colour)(images, keys)
  np.testing.assert_allclose(got, expected, atol=2e-6)
  left = (expected == images).all((1, 2, 3))
  assert 0 < left.sum() < 16
  np.testing.assert_array_equal(got[left], expected[left])

  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  own = jax.jit(lambda *x: Axis(sharding=split).by_example(colour, *x))
  arguments = jax.device_put((images, keys), split)
  spread = own(*arguments)
  np.testing.assert_allclose(spread, got, atol=1e-6)
  assert spread.sharding.is_equivalent_to(split, 4)
  assert "all-gather" not in own.lower(*arguments).compile().as_text()


def test_make_views_expands_counts_in_order():
  key = jax.random.key(3)
  large, small = Crop(8, count=2), Crop(5)
  views = make((large, small), key, *BATCH)
  assert [v.shape for v in views] == [(16, s, s, 3) for s in (8, 8, 5)]
  one = jax.jit(augmented, static_argnums=0)
  for n, kind in enumerate((large, large, small)):
    keys = [jax.random.fold_in(jax.random.fold_in(key, i), n) for i in BATCH[0]]
    alone = one(kind, BATCH[1], jnp.stack(keys))
    np.testing.assert_allclose(views[n], alone, atol=1e-5)
  assert (abs(views[0] - views[1]).max((1, 2, 3)) > 0.1).all()


def test_an_operation_left_out_changes_no_other():
  key = jax.random.key(3)
  few = Crop(8, grey=0.5)
  (plain,) = make((few,), key, *BATCH)
  (full,) = make((dataclasses.replace(SIMCLR, grey=0.5),), key, *BATCH)
  greys = [np.ptp(view, axis=-1).max((1, 2)) < 1e-6 for view in (plain, full)]
  np.testing.assert_array_equal(*greys)
  assert 2 < greys[0].sum() < 14


def test_a_bare_view_computes_no_colour():
  images = _images(2, 8, 8)
  trace = jax.make_jaxpr(coloured.augment_colour, static_argnums=0)
  bare = str(trace(Crop(8, jitter_prob=1.0), images, _keys(2)))
  full = str(trace(SIMCLR, images, _keys(2)))
  for operation in ("scan", "dot_general", "select_n"):
    assert operation not in bare and operation in full
  got = coloured.augment_colour(Crop(8), images, _keys(2))
  np.testing.assert_allclose(got, images / 255, rtol=1e-6)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"size": 0}, "size is 0; it must be 1 or more"),
    ({"count": 0}, "count is 0"),
    ({"crop_scale": (0.0, 1.0)}, r"crop_scale is \(0.0, 1.0\)"),
    ({"crop_scale": (0.5, 1.1)}, r"crop_scale is .*at most 1"),
    ({"crop_ratio": (2.0, 1.0)}, "crop_ratio is .*low <= high"),
    ({"interpolation": "cubic"}, "interpolation is 'cubic'.*'bicubic'"),
    ({"flip": 1.5}, "flip is 1.5; it must be a probability"),
    ({"jitter_prob": -0.1}, "jitter_prob is -0.1"),
    ({"grey": 2.0}, "grey is 2.0"),
    ({"blur": -1.0}, "blur is -1.0"),
    ({"solarize": 1.1}, "solarize is 1.1"),
    ({"jitter": (0.4, -0.4, 0.4, 0.1)}, "jitter is .*from 0 up"),
    ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "jitter is .*hue"),
    ({"blur_sigma": (0.0, 2.0)}, "blur_sigma is"),
    ({"blur_kernel": 4}, "blur_kernel is 4; it must be odd"),
    ({"blur_kernel": -1}, "blur_kernel is -1; it must be 1 or more"),
    ({"blur": 0.5, "blur_kernel": 17}, "blur_kernel is 17; .*below .*= 16"),
  ],
)
def test_view_refuses(settings, message):
  with pytest.raises(ValueError, match=message):
    Crop(**{"size": 8, **settings})


def test_view_is_built_from_a_config_section():
  section = {"size": 8, "jitter": [0.4, 0.4, 0.4, 0.1], "flip": 1}
  view = config.build(Crop, section, "data.views.0")
  assert (
    view.jitter == (0.4, 0.4, 0.4, 0.1) and view.interpolation == "bilinear"
  )
  with pytest.raises(config.ConfigError, match="interpolation"):
    config.build(Crop, {"size": 8, "interpolation": "area"}, "view")
