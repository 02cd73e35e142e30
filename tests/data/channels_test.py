"""Images of other channels than red, green and blue, from set to network."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image

from sslx import experiment as experiment_lib
from sslx.config import ConfigError
from sslx.data import augment, crops, operations, sets, sources
from sslx.data.views import Crop, coloured
from sslx.report import views as report
from tests import tiny

RNG = np.random.default_rng(0)


def pixels(*shape):
  return RNG.integers(0, 256, shape, np.uint8)


def arrays(channels, n=32, side=20):
  labels = np.arange(n, dtype=np.int32) % 4
  return sets.Arrays(pixels(n, side, side, channels), labels, 4)


@dataclasses.dataclass(frozen=True)
class Bands(sets.Images):
  """A set of pixels that are cut on the host."""

  channels: int
  num_classes: int = 4

  def __len__(self):
    return 32

  def read(self, indices):
    draw = lambda i: np.random.default_rng(int(i)).integers(
      0, 256, (24, 30, self.channels), np.uint8
    )
    return [draw(i) for i in indices], np.array(indices, np.int32) % 4


def test_one_channel_of_rgb_is_the_luma():
  images = pixels(3, 5, 4, 3)
  found = operations.normalize(images, (0.4,), (0.2,))
  luma = images @ np.array([0.2989, 0.587, 0.114]) / 255
  np.testing.assert_allclose(found[..., 0], (luma - 0.4) / 0.2, atol=1e-5)
  assert found.shape == (3, 5, 4, 1)
  grey = np.repeat(images[..., :1], 3, axis=-1)
  alone = operations.normalize(images[..., :1], (0.4,), (0.2,))
  found = operations.normalize(grey, (0.4,), (0.2,))
  np.testing.assert_allclose(found, alone, atol=1e-3)  # Weights sum to .9999.


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_each_channel_is_cut_alike(channels):
  image = pixels(40, 50, channels)
  wanted = [
    crops.Cut((3, 5, 20, 30)),
    crops.Cut((2.5, 4.5, 21, 18), flip=True, cubic=True, bounded=False),
  ]
  outs = [np.empty((12, 16, channels), np.uint8) for _ in wanted]
  crops.cut(image, wanted, outs)
  for cut, out in zip(wanted, outs, strict=True):
    top, left, tall, wide = cut.box
    box = (left, top, left + wide, top + tall)
    for i in range(channels):
      band = Image.fromarray(np.ascontiguousarray(image[..., i]))
      if cut.bounded:
        band, box_in = band.crop(box), None
      else:
        box_in = box
      kind = (
        Image.Resampling.BICUBIC if cut.cubic else Image.Resampling.BILINEAR
      )
      expected = np.asarray(band.resize((16, 12), kind, box_in))
      expected = expected[:, ::-1] if cut.flip else expected
      np.testing.assert_array_equal(out[..., i], expected)


@pytest.mark.parametrize(
  ("encoding", "shape"),
  [
    ("none", (8, 9, 5)),
    ("bytes", (8, None, 5)),
    ("zlib", (8, 9, 5)),
    ("bytes", (None, None, 5)),
    ("zlib", (None, None, 5)),
  ],
)
def test_prepared_tensors(tmp_path, encoding, shape):
  image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=encoding)
  label = tfds.features.ClassLabel(num_classes=3)
  features = tfds.features.FeaturesDict({"image": image, "label": label})
  folder = tmp_path / "bands/1.0.0"
  folder.mkdir(parents=True)
  features.save_config(str(folder))
  split = {
    "name": "train",
    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    "numBytes": "1",
    "shardLengths": ["4"],
  }
  info = {"name": "bands", "version": "1.0.0", "fileFormat": "array_record"}
  info = json.dumps(info | {"splits": [split]})
  (folder / "dataset_info.json").write_text(info)
  images = pixels(4, 8, 9, 5)
  writer = array_record_module.ArrayRecordWriter(
    str(folder / "bands-train.array_record-00000-of-00001"), "group_size:1"
  )
  for i, x in enumerate(images):
    record = features.serialize_example({"image": x, "label": i % 3})
    writer.write(record)
  writer.close()
  found = sources.load(sources.Source("bands", str(tmp_path)), "train")
  assert found.channels == 5
  read, labels = found.read([2, 0, 3])
  np.testing.assert_array_equal(np.stack(read), images[[2, 0, 3]])
  assert labels.tolist() == [2, 0, 0]


def test_colours_of_many_channels():
  images = np.float32(RNG.random((6, 9, 9, 5)))
  view = Crop(9, jitter=(0.4, 0.4, 0, 0), solarize=0.5, blur=0.5, blur_kernel=3)
  keys = augment.example_keys(jax.random.key(0), jnp.arange(6))
  found = view.colour(images, keys)
  drawn = coloured.draw_colour(view, keys)
  for i, expected in enumerate(images):
    for op in drawn.order[i].tolist() if drawn.jittered[i] else ():
      factor = float(drawn.factors[i, op])
      if op == 0:
        expected = np.clip(factor * expected, 0, 1)
      elif op == 1:
        grey = (1 - factor) * expected.mean()
        expected = np.clip(factor * expected + grey, 0, 1)
    if drawn.blurred[i]:
      taps = np.exp(-0.5 * (np.arange(-1, 2) / float(drawn.sigma[i])) ** 2)
      taps /= taps.sum()
      for axis in (0, 1):
        expected = np.apply_along_axis(
          lambda x, taps=taps: np.convolve(
            np.pad(x, 1, mode="reflect"), taps, "valid"
          ),
          axis,
          expected,
        )
    if drawn.solarized[i]:
      expected = np.where(expected < 0.5, expected, 1 - expected)
    np.testing.assert_allclose(found[i], expected, atol=1e-5)


def build(method, channels, sets):
  changes = {
    "data.channels": channels,
    "data.mean": (0.5,) * channels,
    "data.std": (0.25,) * channels,
    "data.centre.resize": 16,
    "data.centre.size": 16,
    "runtime.evaluate.batch_size": 16,
  }
  make = functools.partial(tiny.vit_config, "mae")
  if method == "simclr":
    make = tiny.config
    changes |= {
      "data.views.0.jitter": (0.4, 0.4, 0, 0),
      "data.views.0.grey": 0.0,
    }
  changes = {key.replace(".", "__"): value for key, value in changes.items()}
  config = make(**changes)
  if method == "simclr":
    with config.unlocked():
      config.model.backbone = {"name": "convs"}
  return experiment_lib.build(config, sets=sets)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("method", "channels", "sets"),
  [
    ("simclr", 1, (arrays(3), arrays(3, 16))),
    ("simclr", 2, (Bands(2), Bands(2))),
    ("mae", 5, (arrays(5), arrays(5, 16))),
  ],
  ids=["luma", "bands", "arrays"],
)
def test_a_run(method, channels, sets):
  experiment = build(method, channels, sets)
  state = experiment.init_state()
  backbone = state.params["backbone"]
  if method == "simclr":
    assert backbone["conv1"]["kernel"].shape[2] == channels
  else:
    assert backbone["patch_embed"]["proj"]["kernel"].shape[0] == 16 * channels
    assert state.params["decoder"]["pred"]["kernel"].shape[1] == 16 * channels
  batches = experiment.batches()
  try:
    state, metrics = experiment.compiled_step()(state, next(batches))
  finally:
    batches.close()
  assert np.isfinite(float(metrics["loss"]))
  found, pictures = experiment.online.run(state)
  assert (
    any(key.startswith("knn_") for key in found) and not found["bad_images"]
  )
  for picture in pictures.values():
    assert picture.shape[-1] == 3 and picture.dtype == np.uint8


@pytest.mark.parametrize(
  ("changes", "sets", "message"),
  [
    ({"data__channels": 1}, None, "data.mean is .*one number for each of chan"),
    (
      {},
      (arrays(5), arrays(5)),
      r"channels is 3, and the images of .* have 5; it must be 5, with",
    ),
    (
      {"data__channels": 5, "data__mean": (0.5,) * 5, "data__std": (0.5,) * 5},
      (arrays(3), None),
      r"channels is 5, and .* have 3; it must be 3 or 1, with",
    ),
    (
      {"data__channels": 5, "data__mean": (0.5,) * 5, "data__std": (0.5,) * 5},
      (arrays(5), arrays(3)),
      r"images of 5 channels to train on and of 3 to evaluate on",
    ),
    (
      {"data__channels": 5, "data__mean": (0.5,) * 5, "data__std": (0.5,) * 5},
      (arrays(5), arrays(5)),
      r"views\.0 changes saturation, hue or grey, which images of 5 channels",
    ),
  ],
)
def test_channels_that_do_not_fit(changes, sets, message):
  with pytest.raises(ConfigError, match=message):
    experiment_lib.build(tiny.config(**changes), sets=sets)


def test_a_picture_of_views(monkeypatch):
  monkeypatch.setitem(sources.SOURCES, "bands", lambda source, split: arrays(5))
  five = {"data__mean": (0.5,) * 5, "data__std": (0.5,) * 5}
  config = tiny.config(data__source="bands", **five, data__channels=5)
  with pytest.raises(ConfigError, match=r"views\.0 changes saturation"):
    report.first_views(config, 2)
  with config.unlocked():
    config.data.views[0].update(jitter=(0.4, 0.4, 0.0, 0.0), grey=0.0)
  for one in report.first_views(config, 2):
    assert one.image.shape[2] == one.views[0].shape[2] == 3
  luma = {"data__mean": (0.5,), "data__std": (0.5,), "data__channels": 1}
  for one in report.first_views(tiny.config(**luma), 2):
    red, green, blue = np.moveaxis(np.asarray(one.views[0]), 2, 0)
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)
    assert np.ptp(one.image.astype(int), axis=2).any()
