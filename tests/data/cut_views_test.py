"""Batches of encoded images: the same anywhere, and whatever is damaged."""

import base64
import dataclasses
import multiprocessing
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from sslx import experiment
from sslx.config import ConfigError
from sslx.data import crops, files, loader, pipeline
from sslx.data import views as views_lib
from sslx.data.order import Order
from sslx.data.views import Centre, Crop, Patches, Slot
from sslx.settings import load
from tests import tiny
from tests.data import photos, pictures_test

COUNT, BATCH = 22, 6  # of which three make an epoch
VIEWS = (
  Crop(16, count=2),
  Patches(size=4, resize=20, crop=15),
  Crop(8, interpolation="bicubic"),
)
DATA = pipeline.Data("folder", BATCH, VIEWS, (0.0,) * 3, (1.0,) * 3, threads=2)
ORDER = Order(COUNT, BATCH, steps=2 * (COUNT // BATCH), seed=0)
ALL = np.arange(BATCH)


def colour(index):
  """Red and green of picture `index`: no two are alike, as JPEG keeps them."""
  return (index * 11, 255 - index * 11)


def picture(index, rng):
  """A blue slope on that colour, which shows the box of a view."""
  height, width = rng.integers(20, 90, 2)
  y, x = np.mgrid[:height, :width]
  blue = 30 + 170 * (0.7 * y / height + 0.3 * x / width)
  red, green = (np.full(blue.shape, c) for c in colour(index))
  pixels = np.stack([red, green, blue], axis=-1).astype(np.uint8)
  return Image.fromarray(pixels)


def assert_is(pixels, index):
  """They are of picture `index`."""
  assert np.abs(np.int16(pixels[..., :2]) - colour(index)).max() <= 5


def write(folder, bad=(), classes=2):
  """`COUNT` pictures of many sizes."""
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    name = f"class {i % classes}" if classes else ""
    path = folder / "train" / name / f"{i:02}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    image, settings = picture(i, rng), {"quality": 100, "subsampling": 0}
    data = photos.save(image, "JPEG" if i % 3 else "PNG", **settings)
    path.write_bytes(data[: len(data) // 2] if i in bad else data)
  return files.open_files(str(folder), None, "train")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  return write(tmp_path_factory.mktemp("images"))


def index_of(images):
  """From the place in the set to the number of the picture."""
  return [int(pathlib.Path(p.decode()).stem) for p in images.paths]


def cut_views(images, rows=ALL, threads=2, order=ORDER, slots=None):
  slots = slots or views_lib.unshuffled(4)
  return loader.CutViews(images, order, rows, VIEWS, slots, threads)


def assert_same(a, b):
  assert a.bad == b.bad
  np.testing.assert_array_equal(a.arrays["label"], b.arrays["label"])
  assert len(a.arrays["views"]) == len(b.arrays["views"])
  for x, y in zip(a.arrays["views"], b.arrays["views"], strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def straight(images):
  """Every batch, by the shortest way."""
  return [cut_views(images, threads=1)(i) for i in range(len(ORDER))]


def test_a_batch_holds_the_pictures_of_the_order(images, straight):
  numbers = index_of(images)
  assert len(straight) == 6
  for i, batch in enumerate(straight):
    assert batch.bad == ()
    expected = [numbers[x] for x in ORDER[i]]
    np.testing.assert_array_equal(batch.arrays["index"], ORDER[i])
    views = batch.arrays["views"]
    assert [x.shape for x in views] == [
      (BATCH, 16, 16, 3), (BATCH, 16, 16, 3), (BATCH, 9, 4, 4, 3),
      (BATCH, 8, 8, 3),
    ]  # fmt: skip
    for row, number in enumerate(expected):
      assert batch.arrays["label"][row] == number % 2
      for view in views:
        assert_is(view[row], number)


def test_views_differ_between_epochs_views_and_seeds(tmp_path):
  photo = photos.jpeg(photos.photo(90, 90))
  for i in range(COUNT):
    (tmp_path / f"{i}.jpg").write_bytes(photo)  # So that boxes alone differ.
  images = files.open_files(str(tmp_path), ".", "train")
  other = dataclasses.replace(ORDER, seed=1)
  first = cut_views(images)(0).arrays["views"]
  for batch in (cut_views(images)(3), cut_views(images, order=other)(0)):
    for a, b in zip(first, batch.arrays["views"], strict=True):
      for x, y in zip(a, b, strict=True):
        assert not np.array_equal(x, y)
  assert not np.array_equal(first[0], first[1])
  assert not np.array_equal(first[0][0], first[0][1])


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(images, straight, threads):
  data = dataclasses.replace(DATA, threads=threads)
  batches = pipeline.host_batches(images, ORDER, ALL, data)
  for mine, theirs in zip(batches, straight, strict=True):
    assert_same(mine, theirs)


SPLIT = [
  np.split(ALL, 2),
  np.split(ALL, BATCH),
  [np.array([0, 1, 5]), np.array([2, 3, 4])],
]


@pytest.mark.parametrize("rows", SPLIT)
def test_processes_make_the_rows_of_the_same_batches(images, straight, rows):
  for i in (0, 4):
    whole = straight[i].arrays
    for mine in rows:
      part = cut_views(images, mine)(i).arrays
      np.testing.assert_array_equal(part["label"], whole["label"][mine])
      for view, all_of_it in zip(part["views"], whole["views"], strict=True):
        np.testing.assert_array_equal(view, all_of_it[mine])


SLOTS = (Slot(3), Slot(0, shuffled=True), Slot(0), Slot(2, shuffled=True))


def test_a_shuffled_slot_holds_the_same_views_in_the_order_of_the_shuffle(
  images, straight
):
  for i in range(3):
    batch = cut_views(images, slots=SLOTS)(i).arrays
    place = ORDER.shuffle(i)
    assert sorted(place) == list(range(BATCH))
    np.testing.assert_array_equal(batch["place"], place)
    np.testing.assert_array_equal(place[batch["back"]], range(BATCH))
    views = straight[i].arrays["views"]
    for mine, slot in zip(batch["views"], SLOTS, strict=True):
      theirs = views[slot.view][place] if slot.shuffled else views[slot.view]
      np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(batch["label"], straight[i].arrays["label"])
  assert any((ORDER.shuffle(i) != range(BATCH)).any() for i in range(3))


@pytest.mark.parametrize("rows", SPLIT)
def test_processes_make_the_rows_of_the_same_shuffled_batches(images, rows):
  whole = cut_views(images, slots=SLOTS)(1).arrays
  for mine in rows:
    part = cut_views(images, mine, slots=SLOTS)(1).arrays
    for key in ("label", "place", "back"):
      np.testing.assert_array_equal(part[key], whole[key][mine])
    for view, all_of_it in zip(part["views"], whole["views"], strict=True):
      np.testing.assert_array_equal(view, all_of_it[mine])


@pytest.mark.parametrize("start", [1, 3, 4, 6])
def test_going_on_in_the_middle_of_an_epoch(images, straight, start):
  batches = pipeline.host_batches(images, ORDER, ALL, DATA, start=start)
  for mine, theirs in zip(batches, straight[start:], strict=True):
    assert_same(mine, theirs)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing_and_end(images, straight, workers):
  data = dataclasses.replace(DATA, workers=workers)
  before = set(multiprocessing.active_children())
  for start in (0, 2):
    host = pipeline.host_batches(images, ORDER, ALL, data, start=start)
    batches = pipeline.Batches(host, lambda x: x, start=start)
    del host
    for theirs in straight[start:]:
      mine = next(batches)
      assert_same(loader.HostBatch(mine, ()), theirs)
    with pytest.raises(StopIteration):
      next(batches)
    batches.close()
    assert set(multiprocessing.active_children()) <= before


def test_worker_processes_end_when_no_more_is_wanted(images):
  data = dataclasses.replace(DATA, workers=2)
  before = set(multiprocessing.active_children())
  order = dataclasses.replace(ORDER, steps=1000 * len(ORDER))
  host = pipeline.host_batches(images, order, ALL, data)
  batches = pipeline.Batches(host, lambda x: x)
  del host
  next(batches)
  assert len(set(multiprocessing.active_children()) - before) == 2
  began = time.monotonic()
  batches.close()
  del batches
  assert set(multiprocessing.active_children()) <= before
  assert time.monotonic() - began < 10


def test_an_error_in_a_worker_process_reaches_the_consumer(tmp_path):
  images = write(tmp_path, bad=range(COUNT))
  data = dataclasses.replace(DATA, workers=1)
  host = pipeline.host_batches(images, ORDER, ALL, data)
  batches = pipeline.Batches(host, lambda x: x)
  with pytest.raises(ConfigError, match="images in a row cannot be decoded"):
    next(batches)
  batches.close()


# Damage.


@pytest.fixture
def damaged(tmp_path):
  """Of which 4, 9, 10 and 11, and the last, are cut short."""
  return write(tmp_path, bad=(4, 9, 10, 11, COUNT - 1))


def test_a_bad_image_is_replaced_by_its_neighbour_with_its_label(damaged):
  numbers = index_of(damaged)
  bad = {numbers.index(x) for x in (4, 9, 10, 11, COUNT - 1)}
  seen = set()
  for i in range(ORDER.steps_per_epoch):
    batch = cut_views(damaged)(i)
    expected = set()
    for row, index in enumerate(ORDER[i]):
      while int(index) in bad:
        expected.add(int(index))
        index = (index + 1) % COUNT  # The neighbour in the set.
      number = numbers[index]
      assert batch.arrays["label"][row] == damaged.labels[index] == number % 2
      assert batch.arrays["index"][row] == index
      for view in batch.arrays["views"]:
        assert_is(view[row], number)
    assert {index for index, _ in batch.bad} == expected
    assert all("that do not decode" in reason for _, reason in batch.bad)
    seen |= expected
  assert len(seen) >= 3


def test_a_shuffled_slot_has_the_same_neighbour(damaged):
  for i in range(3):
    straight = cut_views(damaged)(i)
    shuffled = cut_views(damaged, slots=SLOTS)(i)
    assert shuffled.bad == straight.bad
    views, place = straight.arrays["views"], ORDER.shuffle(i)
    np.testing.assert_array_equal(shuffled.arrays["views"][1], views[0][place])


def test_the_neighbour_is_cut_as_if_its_own_size_were_drawn(tmp_path):
  images, batch, row = write(tmp_path), 1, 3
  place = int(ORDER[batch][row])
  pathlib.Path(images.name(place)).write_bytes(b"no image")
  after = (place + 1) % COUNT

  class Swapped(Order):
    def __getitem__(self, i):
      indices = super().__getitem__(i).copy()
      indices[row] = after if i == batch else indices[row]
      return indices

  order = Swapped(**dataclasses.asdict(ORDER))
  mine = cut_views(images)(batch)
  theirs = cut_views(images, order=order)(batch)
  assert len(mine.bad) == 1 and not theirs.bad
  for x, y in zip(mine.arrays["views"], theirs.arrays["views"], strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_file_that_is_gone_and_one_that_is_no_image_are_replaced(tmp_path):
  images = write(tmp_path)
  order = ORDER[0]
  paths = [pathlib.Path(images.name(int(i))) for i in order[:4]]
  paths[0].unlink()
  paths[1].write_bytes(b"")
  paths[2].write_text("404: not found")
  header = photos.jpeg(photos.photo(20, 20))
  paths[3].write_bytes(header[: header.index(b"\xff\xda")])
  batch = cut_views(images)(0)
  reasons = dict(batch.bad)
  assert set(reasons) >= {int(i) for i in order[:4]}
  assert "empty, or could not be read" in reasons[int(order[0])]
  assert "empty, or could not be read" in reasons[int(order[1])]
  assert "14 bytes that do not decode" in reasons[int(order[2])]
  assert "bytes that do not decode" in reasons[int(order[3])]


def test_a_hundred_bad_images_in_a_row_are_an_error(tmp_path):
  for i in range(130):
    (tmp_path / f"{i:03}.jpg").write_bytes(
      b"no image" if i < 99 else photos.jpeg(photos.photo(8, 8))
    )
  images = files.open_files(str(tmp_path), ".", "train")

  class First(Order):
    def __getitem__(self, batch):
      return np.array([0])

  order = First(130, 1, steps=130, seed=0)
  batch = cut_views(images, np.arange(1), order=order)(0)
  assert [index for index, _ in batch.bad] == list(range(99))
  (tmp_path / "099.jpg").write_bytes(b"no image")
  with pytest.raises(ConfigError, match="100 images in a row .*000.jpg"):
    cut_views(images, np.arange(1), order=order)(0)


def run(folder, max_bad):
  """The batches of an experiment on a folder, and what is said of it."""
  settings = {
    "data.source": "folder",
    "data.data_dir": str(folder),
    "data.views.0.size": 16,
    "data.views.0.blur": 0.0,
    "data.batch_size": 8,
    "data.threads": 2,
    "data.max_bad": max_bad,
    "model.backbone.depth": 18,
    "model.backbone.width": 0.125,
    "model.norm_groups": 1,
    "runtime.evaluate.knn.k": (1,),
    "schedule.epochs": 12,
  }
  config = load(
    f"{tiny.ROOT}/configs/simclr.py:imagenet",
    [(key, repr(value)) for key, value in settings.items()],
  )
  built = experiment.build(config)
  said = []
  return built, built.batches(0, said.append), said


def test_every_bad_image_is_reported_once_with_its_path(tmp_path):
  write(tmp_path, bad=(4, 9, 10))
  built, batches, said = run(tmp_path, max_bad=0.2)
  counts, drawn = [], 0
  numbers = index_of(built.train)
  places = [numbers.index(x) for x in (4, 9, 10)]
  for step in range(built.total_steps):
    next(batches)
    counts.append(len(batches.bad))
    drawn += np.isin(built.order[step], places).sum()
  batches.close()
  assert counts == sorted(counts)
  assert batches.replaced == drawn
  assert len(said) == len(batches.bad) == counts[-1] <= 3
  assert counts[-1] == 3  # In two epochs or more; each drops 6 of 22.
  for index, text in zip(sorted(batches.bad), sorted(said), strict=True):
    assert built.train.name(index) in text
    assert "cannot be decoded (" in text and "neighbour" in text


def test_more_bad_images_than_allowed_stop_the_run(tmp_path):
  write(tmp_path, bad=range(0, COUNT, 2))
  built, batches, said = run(tmp_path, max_bad=0.09)  # 1.98 of 22: two
  with pytest.raises(ConfigError) as error:
    for _ in range(built.total_steps):
      next(batches)
  batches.close()
  assert len(said) == 3
  text = str(error.value)
  assert "3 of 22 images cannot be decoded, such as " in text
  assert "more than config.data.max_bad=0.09 allows" in text
  assert ".jpg" in text and "\n" not in text


@pytest.mark.parametrize(
  ("share", "total", "allowed"),
  [(0.01, 61, 1), (0.01, 100, 1), (0.07, 100, 7), (0.01, 1_281_167, 12_812),
   (0.0, 61, 0), (1.0, 61, 61)],
)  # fmt: skip
def test_one_of_a_small_set_may_be_damaged(share, total, allowed):
  data = dataclasses.replace(DATA, max_bad=share)
  data.check_bad(allowed, total, "x.jpg")
  with pytest.raises(ConfigError, match="such as x.jpg; more than"):
    data.check_bad(allowed + 1, total, "x.jpg")


def odd_images(folder):
  """Of which some decoder or header reader refuses one or the other."""
  for i, data in enumerate(pictures_test.ODD.values()):
    (folder / f"{i}.jpg").write_bytes(base64.b64decode(data))
  png = photos.save(pictures_test.RGB, "PNG")
  text = pictures_test.chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000)
  (folder / "text.png").write_bytes(png[:33] + text + png[33:])
  broken = pictures_test.chunk(b"gAMA", bytes(4), crc=1)
  (folder / "checksum.png").write_bytes(png[:33] + broken + png[33:])
  return files.open_files(str(folder), ".", "train")


def test_no_view_of_an_odd_image_is_one_flat_colour(tmp_path, monkeypatch):
  images = odd_images(tmp_path)
  order = Order(4, 4, steps=1, seed=0)
  for native in (crops._native, None):
    monkeypatch.setattr(crops, "_native", native)
    batch = cut_views(images, np.arange(4), order=order)(0)
    assert batch.bad == ()
    for view in (batch.arrays["views"][n] for n in (0, 1, 3)):
      assert view.std(axis=(1, 2)).max(axis=-1).min() > 3


def test_views_are_of_the_upright_image_unless_exif_is_off(tmp_path):
  """Columns of 90 x 30 pixels, which EXIF makes rows of 30 x 90."""
  stripes = np.zeros((30, 90, 3), np.uint8)
  stripes[:, 40:50] = 255
  exif = pictures_test.exif_of(6)
  for i in range(COUNT):
    data = photos.save(Image.fromarray(stripes), "JPEG", exif=exif)
    (tmp_path / f"{i}.jpg").write_bytes(data)
  images = files.open_files(str(tmp_path), ".", "train")
  for turned in (True, False):
    data = dataclasses.replace(DATA, exif=turned)
    batch = next(pipeline.host_batches(images, ORDER, ALL, data))
    centre = Centre(size=16, resize=16)
    ((pixels, _),) = loader.evaluation_batches(
      images, COUNT, np.arange(COUNT), centre, exif=turned
    )
    for view in (batch.arrays["views"][0], pixels):
      rows, columns = (
        view.mean(axis=(axis, 3)).std(axis=1).mean() for axis in (2, 1)
      )
      assert (rows > 9 * columns) if turned else (columns > 9 * rows)


MEMORY = """
import os, sys
import numpy as np
from sslx.data.order import Order
from sslx.data import crops, files, pipeline
from sslx.data.views import Crop

folder, decoder = sys.argv[1:]
if decoder == "fallback":
  crops._native = None
images = files.open_files(folder, None, "train")
views = (Crop(32, count=2), Crop(16, count=4))
data = pipeline.Data("", 8, views, (0.0,) * 3, (1.0,) * 3, threads=2)
order = Order(len(images), 8, steps=1200 * (len(images) // 8), seed=0)
host = pipeline.host_batches(images, order, np.arange(8), data)
batches = pipeline.Batches(host, lambda x: x)

def resident():
  pages = int(open("/proc/self/statm").read().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

for step in range(2301):
  next(batches)
  if step % 100 == 0 and step >= 300:
    print(resident())
batches.close()
assert batches.replaced > 2000
"""


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["native", "fallback"])
def test_memory_stays_flat(tmp_path, decoder):
  """Over 2,000 batches, damaged images among them, after 300 to warm up."""
  write(tmp_path, bad=(4, 9, 10))
  for i in range(4):  # Larger ones, so that buffers grow now and then.
    data = photos.jpeg(photos.photo(300 + 50 * i, 500, i))
    (tmp_path / f"train/class 0/large {i}.jpg").write_bytes(data)
  done = subprocess.run(
    [sys.executable, "-c", MEMORY, str(tmp_path), decoder],
    cwd=tiny.ROOT,
    env=tiny.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  megabytes = [float(x) for x in done.stdout.split()]
  print(
    f"RSS in MB: {megabytes[0]:.1f} to {megabytes[-1]:.1f}, at most", end=""
  )
  print(f" {max(megabytes):.1f}")
  assert len(megabytes) == 21
  assert max(megabytes) - megabytes[0] < 30, megabytes


# Evaluation.


def evaluation(images, batch_size=5, rows=None, limit=None):
  rows = np.arange(batch_size) if rows is None else rows
  centre = Centre(size=12, resize=14)
  return list(
    loader.evaluation_batches(images, batch_size, rows, centre, limit)
  )


def test_evaluation_keeps_the_order_of_the_set_and_pads(images):
  batches = evaluation(images)
  assert [x.shape for x, _ in batches] == [(5, 12, 12, 3)] * 5
  assert all(labels.dtype == np.int32 for _, labels in batches)
  pixels, labels = (np.concatenate(x) for x in zip(*batches, strict=True))
  np.testing.assert_array_equal(labels[:COUNT], images.labels)
  assert (labels[COUNT:] == -1).all()
  for image, number in zip(pixels, index_of(images), strict=False):
    assert_is(image, number)


def test_evaluation_of_a_batch_that_fits_has_no_padding(images):
  batches = evaluation(images, batch_size=11)
  assert len(batches) == 2
  assert min(labels.min() for _, labels in batches) == 0


@pytest.mark.parametrize("rows", SPLIT)
def test_evaluation_is_split_by_rows(images, rows):
  whole = evaluation(images, BATCH)
  for mine in rows:
    for part, batch in zip(evaluation(images, BATCH, mine), whole, strict=True):
      for x, all_of_it in zip(part, batch, strict=True):
        np.testing.assert_array_equal(x, all_of_it[mine])


@pytest.mark.parametrize("limit", [1, 7, 10, 100])
def test_evaluation_of_the_first_images(images, limit):
  batches = evaluation(images, limit=limit)
  labels = np.concatenate([x for _, x in batches])
  count = min(limit, COUNT)
  assert len(labels) == -(-count // 5) * 5
  np.testing.assert_array_equal(labels[:count], images.labels[:count])
  assert (labels[count:] == -1).all()


@pytest.mark.parametrize("classes", [0, 2])
def test_evaluation_passes_over_bad_images(tmp_path, classes):
  images = write(tmp_path, bad=(4, 9), classes=classes)
  labels = np.concatenate([x for _, x in evaluation(images)])
  bad = np.isin(index_of(images), (4, 9))
  assert (labels[:COUNT][bad] == -1).all()
  # Where there are no labels, 0 marks an image.
  expected = images.labels if classes else np.zeros(COUNT, np.int32)
  np.testing.assert_array_equal(labels[:COUNT][~bad], expected[~bad])
  assert (labels[COUNT:] == -1).all()
  if classes:
    assert images.labels.min() >= 0  # The set itself is as it was.


def test_evaluation_that_is_left_early_ends_its_thread(images):
  before = threading.active_count()
  centre = Centre(size=12, resize=14)
  batches = loader.evaluation_batches(images, 5, np.arange(5), centre)
  next(batches)
  batches.close()
  workers = loader.default_threads() + 16  # Shared pools may have grown.
  assert threading.active_count() <= before + workers
  names = [x.name for x in threading.enumerate()]
  assert not any(x.startswith("ThreadPoolExecutor-") for x in names)


def test_the_settings_of_data_refuse_what_cannot_run():
  for key, value, message in (
    ("max_bad", 1.5, "max_bad is 1.5; it must be a share, 0 to 1"),
    ("max_bad", -0.1, "max_bad is -0.1"),
    ("threads", 0, "threads is 0; it must be positive, or None"),
    ("workers", -1, "workers is -1; it must be 0 or more"),
    ("views", (), "views is .*; it must be one view or more"),
  ):
    with pytest.raises(ValueError, match=message):
      dataclasses.replace(DATA, **{key: value})


def test_native_and_fallback_draw_the_same_boxes(images, straight, monkeypatch):
  monkeypatch.setattr(crops, "_native", None)
  for i, theirs in enumerate(straight):
    mine = cut_views(images)(i)
    for x, y in zip(mine.arrays["views"], theirs.arrays["views"], strict=True):
      assert np.abs(np.int16(x) - y).max() <= 8
