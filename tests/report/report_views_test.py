"""The picture of views: it shows what the network is given, and from where."""

import contextlib

import jax
import numpy as np
import pytest
from PIL import Image

from sslx import experiment as experiment_lib
from sslx import step
from sslx.axis import Axis
from sslx.data import operations
from sslx.report import views
from tests import tiny


def photos(folder, n=8, height=60, width=80):
  """Smooth noise, as JPEGs."""
  rng = np.random.default_rng(0)
  folder.mkdir(parents=True)
  for i in range(n):
    noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.BICUBIC)
    image.save(folder / f"{i}.jpg", quality=95)


@pytest.fixture(params=["shapes", "folder"])
def config(request, tmp_path):
  photos(tmp_path / "train" / "a")
  changes = {"data.source": request.param, "data.batch_size": 8}
  if request.param == "folder":
    changes["data.data_dir"] = str(tmp_path)
  return tiny.config(**changes, data__views__0__blur=0.0)


@pytest.mark.slow
def test_what_is_shown_is_what_the_first_step_is_given(config):
  shown = views.first_views(config, 3)
  experiment = experiment_lib.build(config, jax.devices()[:1])
  state_rng = step.first_rng(jax.random.key(config.runtime.seed))
  key, _ = step.step_keys(jax.random.wrap_key_data(state_rng), 0)
  with contextlib.closing(experiment.batches()) as batches:
    preprocess = jax.jit(lambda x: experiment.step.preprocess(x, key, Axis()))
    given = preprocess(next(batches))
  for i, one in enumerate(shown):
    for view, expected in zip(one.views, given, strict=True):
      view = operations.normalize(
        view, experiment.data.mean, experiment.data.std
      )
      np.testing.assert_allclose(view, expected[i], atol=1e-5)


def test_boxes_are_where_the_views_are_cut(config):
  """Without colour, a view is its box of the original, resized by Pillow."""
  with config.unlocked(), config.ignore_type():
    view = dict(config.data.views[0]) | {"jitter": (0.0,) * 4, "grey": 0.0}
    config.data.views = (view,)
  flipped = 0
  for one in views.first_views(config, 8):
    for view, (box,), legend in zip(
      one.views, one.boxes, one.legends, strict=True
    ):
      top, left, tall, wide = map(int, box)
      crop = Image.fromarray(one.image[top : top + tall, left : left + wide])
      expected = np.asarray(crop.resize(view.shape[1::-1], Image.BILINEAR))
      if "flipped" in legend:
        flipped += 1
        expected = expected[:, ::-1]
      error = np.abs(np.asarray(view) * 255 - expected)
      assert np.median(error) < 3 and error.max() < 40
  assert 0 < flipped < 16


def test_the_neighbour_of_an_image_that_cannot_be_decoded_is_shown(
  tmp_path, capsys
):
  photos(tmp_path / "train" / "a")
  for i, size in enumerate([(40, 30), (60, 80), (50, 70)]):
    Image.new("RGB", size, (90 * i, 0, 0)).save(tmp_path / f"train/a/{i}.jpg")
  for i in (0, 1):
    (tmp_path / f"train/a/{i}.jpg").write_text("<html>404</html>")
  changes = {"data.source": "folder", "data.data_dir": str(tmp_path)}
  config = tiny.config(**changes, data__batch_size=8, data__views__0__blur=0.0)
  shown = views.first_views(config, 8)
  assert [one.image.shape for one in shown].count((70, 50, 3)) == 3
  for one in shown:
    if one.image.shape == (70, 50, 3):
      assert abs(int(one.image[9, 9, 0]) - 180) < 3
      for (box,) in one.boxes:
        assert (box[:2] + box[2:] <= (70, 50)).all()
  said = capsys.readouterr().out
  for i in (0, 1):
    assert said.count(f"train/a/{i}.jpg cannot be decoded (16 bytes") == 1


@pytest.mark.slow
def test_legends_name_what_is_done(config):
  with config.unlocked(), config.ignore_type():
    always = {"jitter_prob": 1.0, "jitter": (0.4, 0.4, 0.4, 0.1), "grey": 1.0}
    always |= {"blur": 1.0, "blur_kernel": 3, "solarize": 1.0}
    always |= {"rand_augment": {"n": 60}}
    config.data.views = (dict(config.data.views[0]) | always,)
  for one in views.first_views(config, 2):
    for legend in one.legends:
      text = ", ".join(legend)
      for word in ("brightness", "hue", "grey", "blur", "solarized"):
        assert word in text
      for word in ("rotate", "shear"):
        assert word in text


def test_nine_patches_keep_their_places():
  config = tiny.config()
  with config.unlocked(), config.ignore_type():
    patches = {"kind": "patches", "size": 9, "resize": 36, "crop": 33}
    config.data.views = (patches,)
  (one,) = views.first_views(config, 1)
  assert one.views[0].shape == (9, 9, 9, 3)
  assert one.boxes[0].shape == (9, 4)
  for (top, left, tall, wide), patch in zip(
    one.boxes[0], one.views[0], strict=True
  ):
    crop = Image.fromarray(one.image).resize(
      (9, 9), Image.BILINEAR, (left, top, left + wide, top + tall)
    )
    error = np.abs(np.asarray(patch) * 255 - np.asarray(crop))[1:-1, 1:-1]
    assert error.max() < 3  # Pillow does not look beyond the box.
