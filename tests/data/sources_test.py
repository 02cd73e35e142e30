"""Sets built by hand, byte by byte, in the format that TFDS writes."""

import dataclasses
import json
import os
import pathlib
import resource
import struct
import subprocess
import sys
import types
import zlib

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from sslx import config
from sslx.config import ConfigError
from sslx.data import loader, records, sets, shapes, sources, views

ROOT = pathlib.Path(__file__).parents[2]
PREPARED = pathlib.Path(
  os.environ.get("TFDS_DATA_DIR", ROOT.parent / "shared/data/tfds")
)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 4, 5, 3), np.uint8)
LABELS = np.array([2, 0, 1, 2, 1, 0, 2])


def png(image):
  """uint8[h, w, 1 or 3] -> PNG, uncompressed rows without a filter."""
  height, width, channels = image.shape

  def chunk(kind, body):
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc

  header = struct.pack(">IIBBBBB", width, height, 8, channels - 1, 0, 0, 0)
  rows = b"".join(b"\0" + row.tobytes() for row in image)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


def write_set(
  folder,
  *,
  images=IMAGES,
  labels=LABELS,
  shards=(4, 3),
  shape=("4", "5", "3"),
  dtype="uint8",
  key="image",
  file_format="array_record",
):
  """Writes a prepared set with one split, "train", into `folder`."""
  folder.mkdir(parents=True)
  core = "tensorflow_datasets.core.features"
  features = {
    key: {
      "pythonClassName": f"{core}.image_feature.Image",
      "image": {"shape": {"dimensions": list(shape)}, "dtype": dtype},
    }
  }
  if labels is not None:
    features["label"] = {
      "pythonClassName": f"{core}.class_label_feature.ClassLabel",
      "classLabel": {"numClasses": "3"},
    }
  features = {
    "pythonClassName": f"{core}.features_dict.FeaturesDict",
    "featuresDict": {"features": features},
  }
  info = {
    "name": folder.parent.name,
    "version": folder.name,
    "fileFormat": file_format,
    "splits": [
      {
        "name": "train",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "numBytes": "1",
        "shardLengths": [str(length) for length in shards],
      }
    ],
  }
  (folder / "features.json").write_text(json.dumps(features))
  (folder / "dataset_info.json").write_text(json.dumps(info))
  rows = iter(range(len(images)))
  for i, length in enumerate(shards):
    shard = f"train.{file_format}-{i:05}-of-{len(shards):05}"
    writer = array_record_module.ArrayRecordWriter(
      str(folder / f"{folder.parent.name}-{shard}"),
      "group_size:1,uncompressed",
    )
    for row in (next(rows) for _ in range(length)):
      example = tf_example_pb2.Example()
      fields = example.features.feature
      fields[key].bytes_list.value.append(png(images[row]))
      if labels is not None:
        fields["label"].int64_list.value.append(labels[row])
      writer.write(example.SerializeToString())
    writer.close()


def tiny(tmp_path, **changes):
  """A source of a set that no TFDS code describes, only its files."""
  write_set(tmp_path / "tiny" / "1.0.0", **changes)
  return sources.Source("tiny", data_dir=str(tmp_path))


def error_of(source, split="train"):
  with pytest.raises(config.ConfigError) as caught:
    sources.load(source, split)
  return str(caught.value)


def command(name, data_dir):
  return f"python -m sslx.prepare {name} --out={data_dir}"


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_reads_all_records_in_order(tmp_path, monkeypatch, chunk):
  monkeypatch.setattr(records, "_CHUNK", chunk)
  arrays = sources.load(tiny(tmp_path), "train")
  np.testing.assert_array_equal(arrays.images, IMAGES)
  np.testing.assert_array_equal(arrays.labels, LABELS)
  assert arrays.images.dtype == np.uint8
  assert arrays.labels.dtype == np.int32
  assert arrays.num_classes == 3


def test_splits_may_be_slices_across_shards(tmp_path):
  tiny(tmp_path)
  source = sources.Source(
    "tiny", data_dir=str(tmp_path), train="train[2:6]", test="train[6:]"
  )
  np.testing.assert_array_equal(
    sources.load(source, "train").images, IMAGES[2:6]
  )
  np.testing.assert_array_equal(sources.load(source, "test").labels, LABELS[6:])


def test_grey_images_become_rgb(tmp_path):
  grey = IMAGES[..., :1]
  source = tiny(tmp_path, images=grey, shape=("4", "5", "1"))
  np.testing.assert_array_equal(
    sources.load(source, "train").images, grey.repeat(3, axis=-1)
  )


@pytest.mark.parametrize("labels", [None, np.full(7, -1)])
def test_images_without_labels(tmp_path, labels):
  arrays = sources.load(tiny(tmp_path, labels=labels), "train")
  np.testing.assert_array_equal(arrays.images, IMAGES)
  assert arrays.labels is None
  assert arrays.num_classes is None


def test_reading_does_not_import_tensorflow(tmp_path):
  source = tiny(tmp_path)
  code = (
    "import sys\n"
    "from sslx.data.sources import Source, load\n"
    f"n = len(load({source!r}, 'train').images)\n"
    "print(n, 'tensorflow' in sys.modules)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split() == ["7", "False"]


def test_shapes_are_a_source():
  arrays = sources.load(sources.Source("shapes"), "test")
  images, labels = shapes.generate("test")
  np.testing.assert_array_equal(arrays.images, images)
  np.testing.assert_array_equal(arrays.labels, labels)
  assert arrays.num_classes == labels.max() + 1
  message = error_of(sources.Source("shapes", test="validation"), "test")
  assert "there is no split 'validation'; there are 'train', 'test'" in message


@pytest.mark.parametrize(
  ("split", "part"),
  [
    ("test[:10%]", slice(102)),
    ("test[90%:]", slice(922, None)),
    ("test[100:-50]", slice(100, -50)),
    ("test[-10%:]", slice(-102, None)),
  ],
)
def test_slices_of_shapes(split, part):
  """As TFDS cuts a set of as many images."""
  arrays = sources.load(sources.Source("shapes", train=split), "train")
  images, labels = shapes.generate("test")
  np.testing.assert_array_equal(arrays.images, images[part])
  np.testing.assert_array_equal(arrays.labels, labels[part])
  instruction = tfds.core.ReadInstruction.from_spec(split)
  whole = {"test": types.SimpleNamespace(num_examples=1024)}
  (absolute,) = instruction.to_absolute(whole)
  assert len(arrays) == len(range(1024)[absolute.from_ : absolute.to])


@pytest.mark.parametrize("split", ["test[10:10]", "test[5000:]"])
def test_slices_of_shapes_that_hold_nothing(split):
  message = error_of(sources.Source("shapes", train=split))
  assert f"{split!r} has none of the 1024 images" in message


def test_a_set_of_which_tfds_sees_nothing(tmp_path):
  """Only an unfinished preparation, or no features.json."""
  (tmp_path / "smallset/1.0.0.incomplete").mkdir(parents=True)
  message = error_of(sources.Source("smallset", str(tmp_path)))
  assert "smallset/1.0.0.incomplete is what an unfinished" in message
  assert "Did you mean" not in message
  write_set(tmp_path / "other/1.0.0")
  (tmp_path / "other/1.0.0/features.json").unlink()
  message = error_of(sources.Source("other", str(tmp_path)))
  assert "other/1.0.0 has no readable features.json" in message


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("cifar1O", "Did you mean 'cifar10'"),
    ("shape", "Did you mean 'shapes'"),
    ("qqqqqqq", "not a set that TFDS"),
    ("my set", "cannot be opened"),
    ("cifar10:9.9.9", "only: 3.0"),
    ("cifar10/no_config", "no_config"),
  ],
)
def test_unknown_name(tmp_path, name, expected):
  message = error_of(sources.Source(name, data_dir=str(tmp_path)))
  assert f"config.data.source={name!r}" in message
  assert expected in message
  assert len(message) < 1500


@pytest.mark.parametrize(
  ("data_dir", "expected"),
  [
    ("{tmp}/absent", "does not exist. Correct it, or"),
    ("{tmp}/file", "is a file"),
    ("gs://bucket/data", "is a URL"),
    ("{tmp}/locked", "cannot be read by this user"),
  ],
)
def test_bad_data_dir(tmp_path, monkeypatch, data_dir, expected):
  (tmp_path / "file").touch()
  (tmp_path / "locked").mkdir()
  # By hand, because root may read everything.
  monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in path)
  data_dir = data_dir.format(tmp=tmp_path)
  message = error_of(sources.Source("cifar10", data_dir=data_dir))
  assert f"config.data.data_dir={data_dir!r}" in message
  assert expected in message


def test_data_dir_may_start_at_home(tmp_path, monkeypatch):
  tiny(tmp_path / "data")
  monkeypatch.setenv("HOME", str(tmp_path))
  arrays = sources.load(sources.Source("tiny", data_dir="~/data"), "train")
  assert len(arrays.images) == 7


def test_not_prepared_without_tensorflow(tmp_path, monkeypatch):
  class NoTensorflow:
    def find_spec(self, name, path=None, target=None):
      if name == "tensorflow":
        raise ModuleNotFoundError("No module named 'tensorflow'")

  monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
  monkeypatch.setattr(sys, "meta_path", [NoTensorflow(), *sys.meta_path])
  message = error_of(sources.Source("cifar10", data_dir=str(tmp_path)))
  assert "pip install 'sslx[prepare]'" in message
  assert command("cifar10", tmp_path) in message


def test_not_prepared_and_not_asked_to(tmp_path):
  source = sources.Source("cifar10", data_dir=str(tmp_path), prepare=False)
  message = error_of(source)
  assert "config.data.prepare=True" in message
  assert command("cifar10", tmp_path) in message


def test_only_another_version_is_prepared(tmp_path):
  write_set(tmp_path / "cifar10" / "3.0.1")
  source = sources.Source("cifar10", data_dir=str(tmp_path), prepare=False)
  message = error_of(source)
  assert "Version 3.0.1 is there: to use it, write 'cifar10:3.0.1'" in message
  source = sources.Source("cifar10:3.0.1", data_dir=str(tmp_path))
  assert len(sources.load(source, "train").images) == 7


def test_not_prepared_in_many_processes(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  message = error_of(sources.Source("cifar10", data_dir=str(tmp_path)))
  assert "4 processes would each prepare it" in message
  assert command("cifar10", tmp_path) in message


class FakeTensorflow(types.ModuleType):
  """What preparing asks of TensorFlow before TFDS's own part begins."""

  def __init__(self):
    super().__init__("tensorflow")
    self.hidden = []
    self.config = types.SimpleNamespace(
      set_visible_devices=lambda devices, kind: self.hidden.append(kind)
    )


def test_prepares_what_is_not_there(tmp_path, monkeypatch):
  images = RNG.integers(0, 256, (7, 32, 32, 3), np.uint8)
  tensorflow = FakeTensorflow()
  monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
  asked = {}

  def download_and_prepare(builder, **arguments):
    asked.update(arguments)
    write_set(pathlib.Path(builder.data_path), images=images)

  monkeypatch.setattr(
    tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare
  )
  source = sources.Source("cifar10", data_dir=str(tmp_path))
  arrays = sources.load(source, "train")
  np.testing.assert_array_equal(arrays.images, images)
  assert asked == {"file_format": "array_record"}
  assert tensorflow.hidden == ["GPU"]


def test_preparing_fails(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", FakeTensorflow())
  reason = OSError("Name or service not known: example.org")

  def download_and_prepare(builder, **arguments):
    raise reason

  monkeypatch.setattr(
    tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare
  )
  with pytest.raises(config.ConfigError) as caught:
    sources.load(sources.Source("cifar10", data_dir=str(tmp_path)), "train")
  assert "OSError: Name or service not known: example.org" in str(caught.value)
  assert caught.value.__cause__ is reason


def test_unfinished_preparation(tmp_path):
  left = tmp_path / "cifar10" / "incomplete.AB12CD_3.0.2"
  left.mkdir(parents=True)
  message = error_of(sources.Source("cifar10", data_dir=str(tmp_path)))
  assert str(left) in message
  assert "delete that folder" in message


def test_imagenet_is_downloaded_by_hand(tmp_path):
  source = sources.Source("imagenet2012", data_dir=str(tmp_path))
  message = error_of(source)
  assert "https://image-net.org/download-images" in message
  assert f"{command('imagenet2012', tmp_path)} --from=" in message
  (tmp_path / "imagenet2012/5.1.0.incomplete").mkdir(parents=True)
  assert "If none is still running, go on:" in error_of(source)


def test_no_dataset_info(tmp_path):
  source = tiny(tmp_path)
  cifar = tmp_path / "cifar10" / "3.0.2"
  cifar.mkdir(parents=True)
  message = error_of(sources.Source("cifar10", data_dir=str(tmp_path)))
  assert "only in part, without its dataset_info.json" in message
  assert f"Delete {cifar} and prepare" in message
  (tmp_path / "tiny/1.0.0/dataset_info.json").write_text("{")
  assert "json files are damaged" in error_of(source)


@pytest.mark.parametrize(
  ("damage", "expected"),
  [
    (lambda shard: shard.unlink(), "No such file"),
    (lambda shard: os.truncate(shard, 0), "cut short"),
    (lambda shard: os.truncate(shard, 40_000), "cut short"),
  ],
)
def test_missing_and_short_shards(tmp_path, damage, expected):
  source = tiny(tmp_path)
  shard = tmp_path / "tiny/1.0.0/tiny-train.array_record-00001-of-00002"
  damage(shard)
  message = error_of(source)
  assert str(shard) in message
  assert expected in message
  assert f"Delete {tmp_path}/tiny/1.0.0 and prepare" in message


def test_shard_with_another_number_of_records(tmp_path):
  source = tiny(tmp_path)
  info = tmp_path / "tiny/1.0.0/dataset_info.json"
  info.write_text(info.read_text().replace('"3"', '"5"'))
  message = error_of(source)
  assert "holds 3 records where dataset_info.json says 5" in message


def test_damage_inside_a_shard(tmp_path):
  source = tiny(tmp_path)
  shard = tmp_path / "tiny/1.0.0/tiny-train.array_record-00000-of-00002"
  content = bytearray(shard.read_bytes())
  content[content.index(b"IDAT") + 8] ^= 255
  shard.write_bytes(content)
  message = error_of(source)
  assert "split 'train' is damaged" in message
  assert f"Delete {tmp_path}/tiny/1.0.0 and prepare" in message


def test_image_of_another_size_than_declared(tmp_path):
  message = error_of(tiny(tmp_path, shape=("5", "5", "3")))
  assert "record 0 is not an image of (5, 5)" in message


def test_other_file_format(tmp_path):
  message = error_of(tiny(tmp_path, file_format="tfrecord"))
  assert "is prepared as tfrecord" in message
  assert f"Delete {tmp_path}/tiny/1.0.0 and prepare" in message
  assert command("tiny", tmp_path) in message


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"key": "picture"}, "has no image under 'image'"),
    ({"dtype": "uint16"}, "images of uint16, not uint8"),
  ],
)
def test_sets_of_the_wrong_kind(tmp_path, changes, expected):
  message = error_of(tiny(tmp_path, **changes))
  assert "config.data.source='tiny'" in message
  assert expected in message


def test_more_images_than_memory_holds(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "sysconf", lambda name: 20)
  message = error_of(tiny(tmp_path))
  assert "config.data.source='tiny'" in message
  assert "uint8[7, 4, 5, 3] takes 0 GB of memory" in message


@pytest.mark.parametrize("shape", [("-1", "-1", "3"), ("4", "97", "3")])
def test_large_images_and_those_of_varying_size_stay_encoded(tmp_path, shape):
  images = sources.load(tiny(tmp_path, shape=shape), "train")
  assert len(images) == 7
  assert images.num_classes == 3
  encoded, labels = images.read(np.array([5, 0, 6]))
  assert encoded == [png(IMAGES[i]) for i in (5, 0, 6)]
  np.testing.assert_array_equal(labels, LABELS[[5, 0, 6]])
  assert "record 3 of config.data.source='tiny'" in images.name(3)


def test_more_files_than_a_shell_lets_a_process_open(tmp_path, monkeypatch):
  count = 300
  many = RNG.integers(0, 256, (count, 4, 5, 3), np.uint8)
  source = tiny(
    tmp_path,
    images=many,
    labels=[i % 3 for i in range(count)],
    shards=(1,) * count,
    shape=("-1", "-1", "3"),
  )
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  soft = len(os.listdir("/proc/self/fd")) + 100
  resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
  try:
    images = sources.load(source, "train")
    assert images.read(range(count))[0] == [png(image) for image in many]
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
  # Two sets may be open, and there may be no hard limit.
  unlimited = resource.RLIM_INFINITY
  for now, limit in (((2000, 4000), 2300), ((256, unlimited), 812)):
    monkeypatch.setattr(resource, "getrlimit", lambda _, now=now: now)
    told = []
    monkeypatch.setattr(
      resource, "setrlimit", lambda *x, told=told: told.append(x)
    )
    sources.load(source, "train")
    assert told == [(resource.RLIMIT_NOFILE, (limit, now[1]))]
  monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 512))
  message = error_of(source)
  assert "has 300 files, which are open all at once" in message
  assert "this process may open 512" in message


def test_unknown_split(tmp_path):
  source = tiny(tmp_path)
  assert sources.load(source, "test") is None
  source = dataclasses.replace(source, test="validation")
  message = error_of(source, "test")
  assert "has no split 'validation'; it has 'train'" in message


@pytest.mark.skipif(
  not (PREPARED / "cifar10").is_dir(),
  reason=f"CIFAR-10 is not prepared in {PREPARED} (or TFDS_DATA_DIR)",
)
def test_cifar10():
  source = sources.Source("cifar10", data_dir=str(PREPARED), prepare=False)
  arrays = sources.load(source, "test")
  assert arrays.images.shape == (10_000, 32, 32, 3)
  assert np.bincount(arrays.labels).tolist() == [1000] * 10
  # The published mean of the test images; a copy through JPEG is near.
  np.testing.assert_allclose(
    arrays.images.mean((0, 1, 2)) / 255, [0.4942, 0.4851, 0.4504], atol=2e-3
  )


# Sets from outside.


class Two(sets.Images):
  """The least that a set defines."""

  def __len__(self):
    return 2

  def read(self, indices):
    labels = np.full(len(indices), -1, np.int32)
    return [np.full((9, 7, 3), i, np.uint8) for i in indices], labels


class Unread(sets.Images):
  def __len__(self):
    return 2


class Unsized(sets.Images):
  read = Two.read


class Alike:
  """It has all methods, but is not of the class."""

  num_classes = None
  __len__, read = Two.__len__, Two.read


def test_a_set_from_outside_needs_a_length_and_images(monkeypatch):
  monkeypatch.setitem(sources.SOURCES, "two", lambda source, split: Two())
  found = sources.load(sources.Source("two"), "train")
  assert (found.num_classes, found.classes, found.channels) == (None, None, 3)
  assert found.name(1) == "image 1" and found.file_name(1) == "1"
  assert list(found.notes) == [] and found.fingerprint() == {}
  ((pixels, labels),) = loader.evaluation_batches(
    found, 4, np.arange(4), views.Centre(5, 7)
  )
  assert labels.tolist() == [0, 0, -1, -1]
  assert pixels[:2].mean((1, 2, 3)).tolist() == [0, 1]


@pytest.mark.parametrize(
  ("made", "message"),
  [
    (Alike, "'odd' opens 'train' as a .*Alike, which is not a subclass of"),
    (lambda: None, "as a builtins.NoneType, which is not a subclass of data"),
    (Unread, "Unread, which does not define `read`"),
    (Unsized, "Unsized, which does not define `__len__`"),
  ],
)
def test_a_set_that_is_none(monkeypatch, made, message):
  monkeypatch.setitem(sources.SOURCES, "odd", lambda source, split: made())
  with pytest.raises(ConfigError, match=message):
    sources.load(sources.Source("odd"), "train")
  if made() is None:
    assert sources.load(sources.Source("odd"), "test") is None
