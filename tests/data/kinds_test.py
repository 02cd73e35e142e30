"""A kind of view from outside the package: cut alike on host and device."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sslx import experiment as experiment_lib
from sslx import methods
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data import augment, loader, sets, views
from sslx.report import views as report
from tests import tiny

MODULE = """
import dataclasses
from typing import ClassVar
import jax.numpy as jnp
from sslx import methods
from sslx.data import views
from sslx.methods.simclr import SimCLR


@dataclasses.dataclass(frozen=True)
class Tiles(views.View):
  '''The four quarters of a square somewhere in the image, and its centre.'''

  num_uniforms: ClassVar[int] = 2
  bounded: ClassVar[bool] = False

  share: float = 0.5

  def shape(self, channels=3):
    return (5, self.size, self.size, channels)

  def boxes(self, uniforms, height, width, xp):
    side = self.share * xp.minimum(height, width) * xp.ones(len(uniforms))
    top = uniforms[:, 0] * (height - side)
    left = uniforms[:, 1] * (width - side)
    half = side / 2
    boxes = [
      xp.stack([top + y * half, left + x * half, half, half], axis=1)
      for y, x in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))
    ]
    return xp.stack(boxes, axis=1), uniforms[:, 0] < 0.5


@dataclasses.dataclass(frozen=True)
class Middle(views.Coloured):
  '''The central square: nothing is random but its colours.'''

  def boxes(self, uniforms, height, width, xp):
    b = len(uniforms)
    side = xp.minimum(height, width) // 2 * xp.ones(b, int)
    box = [(height - side) // 2, (width - side) // 2, side, side]
    return xp.stack(box, axis=1)[:, None], xp.zeros(b, bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alike(methods.Method):
  '''Makes the features of each tile those of the centre.'''

  takes = "tiles"
  num_views = (1, 1)

  def draw(self, rng, batch):
    tile = batch["views"][0][:, 0]
    return *methods.base.chain({"backbone": self.backbone}, rng, tile), {}

  def loss(self, run):
    tiles = [run("backbone", run.views[0][:, n]) for n in range(5)]
    run.features = tiles[4]
    return jnp.mean((jnp.stack(tiles[:4]) - tiles[4]) ** 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Middled(SimCLR):
  takes = "middle"


methods.METHODS |= {"alike": Alike, "middled": Middled}
views.KINDS |= {"tiles": Tiles, "middle": Middle}
"""


@pytest.fixture(scope="module", autouse=True)
def outside(tmp_path_factory):
  """A module that adds two kinds, and is forgotten after the tests."""
  folder = tmp_path_factory.mktemp("outside")
  (folder / "outside_kinds.py").write_text(MODULE)
  sys.path.insert(0, str(folder))
  yield "outside_kinds"
  sys.path.remove(str(folder))
  sys.modules.pop("outside_kinds", None)
  for name in ("tiles", "middle"):
    views.KINDS.pop(name, None)
  for name in ("alike", "middled"):
    methods.METHODS.pop(name, None)


MIDDLE = {"kind": "middle", "size": 12, "count": 2, "grey": 0.5}
TILES = {"kind": "tiles", "size": 6, "share": 0.8}
KEYS = augment.example_keys(jax.random.key(0), jnp.arange(tiny.BATCH))


def config(outside, view):
  model = {"method": "alike", "backbone": {"name": "convs"}}
  if view["kind"] == "middle":
    model |= {"method": "middled", "projector": {"dims": (16, 8)}}
  return tiny.config(
    runtime__custom_imports=(outside,),
    runtime__evaluate__probe=None,
    runtime__evaluate__knn__k=(5,),
    data__views=(view,),
    model={"_delete_": True, **model},
  )


def in_memory():
  pixels = tiny.Pixels()
  labels = np.arange(len(pixels), dtype=np.int32) % 10
  return sets.Arrays(pixels.pixels, labels, 10)


def pillow(image, box, size, flip, bounded):
  top, left, tall, wide = box
  image, box = Image.fromarray(image), (left, top, left + wide, top + tall)
  if bounded:
    image, box = image.crop(tuple(map(int, box))), None
  out = np.asarray(image.resize((size, size), Image.BILINEAR, box))
  return out[:, ::-1] if flip else out


@pytest.mark.parametrize("path", ["host", "device"])
def test_tiles_are_where_the_class_says(outside, path):
  pixels = tiny.Pixels()
  images = pixels if path == "host" else in_memory()
  built = experiment_lib.build(
    config(outside, TILES), jax.devices()[:1], (images, images)
  )
  (batch,) = tiny.batches(built, 1)
  originals = pixels.pixels[np.asarray(batch["index"])]
  (view,) = kinds = built.data.views
  if path == "host":
    cutter = loader.CutViews(
      pixels,
      built.order,
      np.arange(tiny.BATCH),
      kinds,
      views.unshuffled(1),
      1,
    )
    sizes = [(tiny.SIDE, tiny.SIDE)] * tiny.BATCH
    drawn = cutter.cuts(0, np.arange(tiny.BATCH), sizes)
    boxes = np.array([[cut.box for cut in cuts] for (cuts,) in drawn])
    flips = [cuts[0].flip for (cuts,) in drawn]
  else:
    boxes, flips = view.boxes(
      view.uniforms(augment.fold(KEYS, 0)), tiny.SIDE, tiny.SIDE, jnp
    )
    boxes = np.asarray(boxes)
  # A square of 16 px in one of 20, in quarters, and its middle.
  corner = boxes[:, 0, :2]
  assert (corner >= 0).all() and (corner <= 4).all()
  assert np.ptp(corner, axis=0).min() > 2
  np.testing.assert_allclose(boxes[:, :, 2:], 8)
  for n, shift in enumerate(([0, 0], [0, 8], [8, 0], [8, 8], [4, 4])):
    np.testing.assert_allclose(boxes[:, n, :2], corner + shift, atol=1e-5)

  (given,) = built.step.preprocess(batch, jax.random.key(0), Axis())
  assert given.shape == (tiny.BATCH, 5, 6, 6, 3)
  given = np.asarray(given) * built.data.std + built.data.mean
  for row in range(tiny.BATCH):
    for n in range(5):
      # Pillow does not look beyond the box, but for its edges.
      expected = pillow(originals[row], boxes[row, n], 6, flips[row], False)
      inside = np.abs(given[row, n] * 255 - expected)[1:-1, 1:-1]
      assert inside.max() < 2


@pytest.mark.parametrize("path", ["host", "device"])
def test_nothing_random_but_the_colours(outside, path):
  pixels = tiny.Pixels()
  images = pixels if path == "host" else in_memory()
  built = experiment_lib.build(
    config(outside, MIDDLE), jax.devices()[:1], (images, images)
  )
  assert built.data.views[0].num_uniforms == 0
  (batch,) = tiny.batches(built, 1)
  given = built.step.preprocess(batch, jax.random.key(0), Axis())
  originals = pixels.pixels[np.asarray(batch["index"])]
  grey = 0
  for view in given:
    view = np.asarray(view) * built.data.std + built.data.mean
    for image, found in zip(originals, view, strict=True):
      expected = pillow(image, (5, 5, 10, 10), 12, False, True) / 255
      luma = expected @ [0.2989, 0.587, 0.114]
      grey += (is_grey := np.ptp(found, axis=-1).max() < 1e-5)
      expected = luma[..., None] if is_grey else expected
      np.testing.assert_allclose(found, expected + 0 * found, atol=0.01)
  assert 8 < grey < 24  # of 32, at one in two


@pytest.mark.slow
@pytest.mark.parametrize("view", [TILES, MIDDLE], ids=["tiles", "middle"])
def test_a_step_and_a_picture_of_it(outside, view):
  made = config(outside, view)
  for images in (tiny.Pixels(), in_memory()):
    built = experiment_lib.build(made, jax.devices()[:2], (images, images))
    batch = tiny.batches(built, 1)
    metrics, _ = tiny.run_steps(built, built.init_state(), batch)
    assert np.isfinite(metrics[0]["loss"]) and metrics[0]["grad_norm"] > 0
  (one,) = report.first_views(made, 1)
  n = 5 if view is TILES else 1
  assert [x.shape for x in one.boxes] == [(n, 4)] * (1 if view is TILES else 2)
  assert report.draw([one]).height > 100


def test_an_unknown_kind_names_those_that_there_are(outside):
  message = (
    r"data\.views\.0\.kind is 'tile'; it must be one of 'crop', 'patches',"
    r" 'tiles', 'middle'\. Did you mean 'tiles'"
  )
  with pytest.raises(ConfigError, match=message):
    config(outside, TILES | {"kind": "tile"})


def test_a_method_says_which_kind_it_takes(outside):
  made = config(outside, TILES)
  with made.unlocked(), made.ignore_type():
    made.data.views = (MIDDLE,)
  with pytest.raises(ConfigError, match="kind 'middle'; Alike takes views of"):
    experiment_lib.build(made)


@dataclasses.dataclass(frozen=True)
class NoView:
  size: int


class Undecorated(views.Crop):
  pass


@dataclasses.dataclass(frozen=True)
class Nowhere(views.View):
  pass


@pytest.mark.parametrize(
  ("cls", "message"),
  [
    (NoView, r"views\.0 is a .*NoView, which is not a subclass of"),
    (Undecorated, r".*Undecorated, which is not a dataclass: .* Decorate it"),
    (Nowhere, r".*Nowhere, which does not define `boxes`"),
  ],
)
def test_a_class_that_does_not_keep_to_the_interface(monkeypatch, cls, message):
  monkeypatch.setitem(views.KINDS, "odd", cls)
  with pytest.raises(ConfigError, match=rf"^config\.data\.{message}"):
    tiny.config(data__views=({"kind": "odd", "size": 8},))
