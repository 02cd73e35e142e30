"""Sets prepared from small images, by the commands that users give."""

import hashlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sslx import config, prepare
from sslx.data import files, listed, records, shards, sources, store
from tests.data import imagenet_test

ROOT = pathlib.Path(__file__).parents[1]
PREPARED = pathlib.Path(
  os.environ.get("TFDS_DATA_DIR", ROOT.parent / "shared/data/tfds")
)


def jpeg(seed, size=(48, 36)):
  """An image of its own, as a file."""
  noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(noise).resize(size).save(buffer, "jpeg", quality=95)
  return buffer.getvalue()


def write_folder(root, train=6, test=2, classes=("cat", "dog"), size=(48, 36)):
  """`train` and `val` with some images of each class."""
  for split, count in (("train", train), ("val", test)):
    for c, name in enumerate(classes):
      for i in range(count):
        path = root / split / name / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg([c, i, train + len(split)], size))
  return root


def run(*arguments):
  """Prepares in this process and with one worker, which is fastest."""
  prepare.main([*map(str, arguments), "--workers=1"])


def error_of(*arguments):
  with pytest.raises(config.ConfigError) as caught:
    run(*arguments)
  return str(caught.value)


def source_of(tmp_path, split, name="pets"):
  """What TFDS reads, as its users ask it to."""
  return tfds.builder(name, data_dir=tmp_path / "out").as_data_source(split)


def read_files(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.fixture
def small_shards(monkeypatch):
  monkeypatch.setattr(store, "_SHARD", 5)


def test_a_folder_with_classes(tmp_path, small_shards, capsys):
  folder = write_folder(tmp_path / "pets")
  run("pets", f"--from={folder}", f"--out={tmp_path}/out")
  printed = capsys.readouterr().out
  assert f"{tmp_path}/out/pets/1.0.0 is prepared and checked" in printed
  assert "train: 12 images\n" in printed
  assert "test: 4 images\n" in printed
  for split, there in (("train", "train"), ("test", "val")):
    source = source_of(tmp_path, split)
    names = source.dataset_info.features["label"].names
    assert names == ["cat", "dog"]
    found = {}
    for record in source:
      name = record["file_name"].decode()
      assert names[record["label"]] == name.split("/")[0]
      found[name] = record["image"]
    paths = sorted((folder / there).rglob("*.jpg"))
    assert sorted(found) == [str(p.relative_to(folder / there)) for p in paths]
    for path in paths:
      expected = np.asarray(Image.open(path))
      image = found[str(path.relative_to(folder / there))]
      np.testing.assert_array_equal(image, expected)
  made = tmp_path / "out/pets/1.0.0"
  assert sorted(os.listdir(made)) == [
    "SHA256SUMS",
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
    "pets-test.array_record-00000-of-00001",
    *(f"pets-train.array_record-0000{i}-of-00003" for i in range(3)),
  ]
  assert os.listdir(made.parent) == ["1.0.0"]


def test_what_is_stored_is_what_was_there(tmp_path):
  folder = write_folder(tmp_path / "pets")
  run("pets", f"--from={folder}", f"--out={tmp_path}/out")
  source = sources.Source("pets", str(tmp_path / "out"))
  found = sources.load(source, "train")
  images, _ = found.read(range(12))
  originals = [p.read_bytes() for p in (folder / "train").rglob("*.jpg")]
  assert sorted(images) == sorted(originals)


def test_order_is_shuffled_and_the_same_everywhere(tmp_path):
  """Any slice has images of all classes, and none depends on the machine."""
  write_folder(tmp_path / "a", train=50)
  os.rename(tmp_path / "a", tmp_path / "elsewhere")
  run("pets", f"--from={tmp_path}/elsewhere", f"--out={tmp_path}/out")
  names = [r["file_name"].decode() for r in source_of(tmp_path, "train")]
  half = [name.split("/")[0] for name in names[:50]]
  assert 15 < half.count("cat") < 35
  digest = lambda n: hashlib.blake2b(n.encode(), digest_size=8).digest()
  assert names == sorted(names, key=digest)


def test_images_without_labels(tmp_path):
  folder = tmp_path / "flat"
  folder.mkdir()
  for i in range(3):
    (folder / f"{i}.jpg").write_bytes(jpeg(i))
  run("pets", f"--from={folder}", f"--out={tmp_path}/out")
  source = source_of(tmp_path, "train")
  assert sorted(source[0]) == ["file_name", "image"]
  assert list(source.dataset_info.splits) == ["train"]
  found = sources.load(sources.Source("pets", str(tmp_path / "out")), "train")
  assert found.num_classes is None


def test_test_images_without_labels(tmp_path):
  folder = write_folder(tmp_path / "pets", test=0)
  (folder / "test").mkdir()
  (folder / "test/1.jpg").write_bytes(jpeg(1))
  run("pets", f"--from={folder}", f"--out={tmp_path}/out")
  assert [r["label"] for r in source_of(tmp_path, "test")] == [-1]


def test_smaller_images_have_another_name(tmp_path):
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out, "--short_side=18")
  assert os.listdir(tmp_path / "out") == ["pets_short18_q90"]
  record = source_of(tmp_path, "train", "pets_short18_q90")[0]
  assert record["image"].shape == (18, 24, 3)
  original = Image.open(folder / "train" / record["file_name"].decode())
  expected = original.resize((24, 18), Image.Resampling.BICUBIC)
  assert np.abs(record["image"] - np.asarray(expected, np.float32)).mean() < 8
  run("pets", f"--from={folder}", out, "--short_side=18", "--quality=40")
  assert "pets_short18_q40" in os.listdir(tmp_path / "out")


def test_pixels(tmp_path):
  folder = write_folder(tmp_path / "pets")
  run("pets", f"--from={folder}", f"--out={tmp_path}/out", "--raw=18")
  source = source_of(tmp_path, "train", "pets_raw18")
  feature = source.dataset_info.features["image"]
  assert isinstance(feature, tfds.features.Tensor)
  assert feature.shape == (None, None, 3)
  record = source[5]
  assert record["image"].dtype == np.uint8
  original = Image.open(folder / "train" / record["file_name"].decode())
  expected = original.resize((24, 18), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(record["image"], np.asarray(expected))
  # And as sslx reads them.
  found = sources.load(
    sources.Source("pets_raw18", str(tmp_path / "out")), "train"
  )
  images, labels = found.read([5])
  np.testing.assert_array_equal(images[0], np.asarray(expected))
  assert labels.tolist() == [record["label"]]


def test_smaller_images_of_a_prepared_set(tmp_path):
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out)
  run("pets", out, "--raw=18")
  small = source_of(tmp_path, "train", "pets_raw18")
  large = source_of(tmp_path, "train")
  assert len(small) == 12
  assert len(source_of(tmp_path, "test", "pets_raw18")) == 4
  assert small.dataset_info.features["label"].names == ["cat", "dog"]
  for record in small:
    split, _, place = record["file_name"].decode().partition("-")
    original = large[int(place)]
    assert split == "train"
    assert record["label"] == original["label"]
    expected = Image.fromarray(original["image"]).resize(
      (24, 18), Image.Resampling.BICUBIC
    )
    np.testing.assert_array_equal(record["image"], np.asarray(expected))


LIST = ("dog/1.jpg", "cat/4.jpg", "dog/5.jpg")


def test_the_listed_part_of_a_folder_and_of_a_prepared_set(tmp_path, capsys):
  folder = write_folder(tmp_path / "pets")
  chosen, out = tmp_path / "few_3.txt", f"--out={tmp_path}/out"
  chosen.write_text("\n".join(LIST))
  run("pets", f"--from={folder}", out, f"--only={chosen}")
  printed = capsys.readouterr().out
  assert "train: 3 images\n" in printed and "test: 4 images\n" in printed
  assert "--config.data.source=pets_few_3 " in printed
  by_folder = tmp_path / "out/pets_few_3/1.0.0"
  expected = read_files(by_folder)
  found = {
    record["file_name"].decode(): (record["label"], record["image"])
    for record in source_of(tmp_path, "train", "pets_few_3")
  }
  assert sorted(found) == sorted(LIST)
  for name, (label, image) in found.items():
    assert label == ("cat", "dog").index(name[:3])
    np.testing.assert_array_equal(
      image, np.asarray(Image.open(folder / "train" / name))
    )
  digest = hashlib.sha256(chosen.read_bytes()).hexdigest()
  description = json.loads(expected["dataset_info.json"])["description"]
  assert f"those of few_3.txt (SHA-256 {digest})" in description

  # From the prepared set it has the same records, and can be smaller.
  os.rename(tmp_path / "out/pets_few_3", tmp_path / "by_folder")
  run("pets", f"--from={folder}", out)
  run("pets", out, f"--only={chosen}")
  again = read_files(by_folder)
  shards_of = lambda all_: {k: v for k, v in all_.items() if "array" in k}
  assert shards_of(again) == shards_of(expected)
  run("pets", out, f"--only={chosen}", "--raw=18")
  small = source_of(tmp_path, "train", "pets_few_3_raw18")
  assert sorted(r["file_name"].decode() for r in small) == sorted(LIST)
  assert small[0]["image"].shape == (18, 24, 3)


def test_lists_that_do_not_fit(tmp_path):
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  chosen = tmp_path / "few.txt"
  for text, expected in {
    "dog/1.jpg\ncow/1.jpg\n": "1 of 2 images are not in the set, such as"
    " 'cow/1.jpg'; ",
    "1.jpg\n": "1 names fit several images, such as '1.jpg'; ",
    "dog/1.jpg\ndog/1.jpg\n": "lists images twice, such as 'dog/1.jpg'",
    "": "is empty",
  }.items():
    chosen.write_text(text)
    message = error_of("pets", f"--from={folder}", out, f"--only={chosen}")
    assert message.startswith(f"{chosen}")
    assert expected in message
  assert not (tmp_path / "out").exists()
  where = ("pets", f"--from={folder}", out)
  assert "is called NAME_My list" in error_of(*where, "--only=My list.txt")
  assert "cannot be read: No such file" in error_of(*where, "--only=absent.txt")
  assert "--stage copies a set as it is" in error_of(
    "pets", f"--from={folder}", "--stage=x", f"--only={chosen}"
  )


def test_the_official_lists_are_known_by_their_checksums(tmp_path, monkeypatch):
  """With a short list in the place of the real ones."""
  monkeypatch.setattr(imagenet_test, "content", lambda name: jpeg(1))
  folder = imagenet_test.write_tars(tmp_path / "in")
  chosen = tmp_path / "1percent.txt"
  chosen.write_text("n15075141_10.JPEG\nn01440764_7.JPEG\n")
  digest = hashlib.sha256(chosen.read_bytes()).hexdigest()
  monkeypatch.setitem(listed.OFFICIAL, digest, "the official 1 % of ImageNet")
  run(
    "imagenet2012",
    f"--from={folder}",
    f"--out={tmp_path}/out",
    f"--only={chosen}",
    "--partial",
  )
  source = source_of(tmp_path, "train", "imagenet2012_1percent")
  assert sorted(r["file_name"].decode() for r in source) == [
    "n01440764_7.JPEG",
    "n15075141_10.JPEG",
  ]
  assert len(source_of(tmp_path, "validation", "imagenet2012_1percent")) == 5
  assert f"1percent.txt, the official 1 % of ImageNet (SHA-256 {digest})" in (
    source.dataset_info.description
  )


def test_damage_in_a_prepared_set_is_skipped(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "_MAX_SKIPPED", 0.1)
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out)
  path = tmp_path / "out/pets/1.0.0/pets-train.array_record-00000-of-00001"
  content = bytearray(path.read_bytes())
  content[content.index(b"cat/3.jpg") - 100] ^= 255
  path.write_bytes(content)
  run("pets", out, "--short_side=18")
  made = tmp_path / "out/pets_short18_q90/1.0.0"
  assert len(source_of(tmp_path, "train", "pets_short18_q90")) == 11
  assert "record " in (made / "skipped.txt").read_text()


@pytest.mark.parametrize("layout", ["tars", "folders"])
def test_imagenet(tmp_path, layout, monkeypatch, capsys):
  images = {}

  def content(name):
    images[name] = jpeg(list(name.encode()))
    return images[name]

  monkeypatch.setattr(imagenet_test, "content", content)
  if layout == "tars":
    folder = imagenet_test.write_tars(tmp_path / "in")
  else:
    folder = imagenet_test.write_folders(tmp_path / "in", flat=False)
  arguments = ("imagenet2012", f"--from={folder}", f"--out={tmp_path}/out")
  assert "is not all of ImageNet 2012" in error_of(*arguments)
  run(*arguments, "--partial")
  assert "train has 9 images and the original 1,281,167" in (
    capsys.readouterr().out
  )
  # TFDS has code for this name, so this is its own builder, of its version.
  builder = tfds.builder("imagenet2012", data_dir=tmp_path / "out")
  assert str(builder.version) == "5.1.0"
  assert type(builder).__module__.startswith("tensorflow_datasets")
  names = builder.info.features["label"].names
  for split, expected in imagenet_test.EXPECTED.items():
    source = builder.as_data_source(
      split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    found = {
      r["file_name"].decode(): (r["image"], names[r["label"]]) for r in source
    }
    assert found == {n: (images[n], wnid) for n, (_, wnid) in expected.items()}


def test_imagenet_metadata_is_that_of_tfds(tmp_path, monkeypatch):
  if not (PREPARED / "imagenet2012").is_dir():
    pytest.skip(f"ImageNet is not prepared in {PREPARED} (or TFDS_DATA_DIR)")
  monkeypatch.setattr(imagenet_test, "content", lambda name: jpeg(1))
  folder = imagenet_test.write_tars(tmp_path / "in")
  run("imagenet2012", f"--from={folder}", f"--out={tmp_path}", "--partial")
  for name in ("features.json", "label.labels.txt"):
    ours = (tmp_path / "imagenet2012/5.1.0" / name).read_text().strip()
    assert ours == (PREPARED / "imagenet2012/5.1.0" / name).read_text().strip()


def test_damaged_images_are_skipped_and_listed(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(shards, "_MAX_SKIPPED", 0.2)
  folder = write_folder(tmp_path / "pets")
  os.truncate(folder / "train/cat/1.jpg", 300)
  (folder / "train/dog/2.jpg").write_text("hello")
  (folder / "val/dog/0.jpg").write_bytes(b"")
  run("pets", f"--from={folder}", f"--out={tmp_path}/out")
  printed = capsys.readouterr().out
  assert "train: 10 images, and 2 skipped (see skipped.txt)" in printed
  assert "test: 3 images, and 1 skipped" in printed
  assert len(source_of(tmp_path, "train")) == 10
  listed = (tmp_path / "out/pets/1.0.0/skipped.txt").read_text().splitlines()
  assert [line.partition(": ")[0] for line in listed] == [
    f"{folder}/train/cat/1.jpg",
    f"{folder}/train/dog/2.jpg",
    f"{folder}/val/dog/0.jpg",
  ]


def test_too_many_damaged_images(tmp_path):
  folder = write_folder(tmp_path / "pets", train=40)
  os.truncate(folder / "train/cat/1.jpg", 300)
  message = error_of("pets", f"--from={folder}", f"--out={tmp_path}/out")
  assert "1 of 84 images are damaged or unreadable, which is more than 1%" in (
    message
  )
  assert f"{folder}/train/cat/1.jpg" in message
  left = tmp_path / "out/pets/1.0.0.incomplete"
  assert f"start anew: rm -r {left}" in message
  assert os.listdir(left.parent) == [left.name]


def test_half_a_set_is_no_set(tmp_path, monkeypatch, small_shards):
  """Whatever the moment of the end, TFDS does not see a set."""
  folder = write_folder(tmp_path / "pets")
  arguments = ("pets", f"--from={folder}", f"--out={tmp_path}/out")
  with monkeypatch.context() as patch:
    wrong = store.check.Checked(["x is wrong"], 1, 1, None)
    patch.setattr(store.check, "check", lambda folder, **how: wrong)
    assert "is damaged: x is wrong" in error_of(*arguments)
  with pytest.raises(tfds.core.DatasetNotFoundError):
    source_of(tmp_path, "train")
  run(*arguments)  # All is there but the name.
  assert len(source_of(tmp_path, "train")) == 12


def test_other_parameters_do_not_go_on_with_a_set(tmp_path, monkeypatch):
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  arguments = ("pets", f"--from={folder}", out)
  with monkeypatch.context() as patch:
    wrong = store.check.Checked(["x is wrong"], 1, 1, None)
    patch.setattr(store.check, "check", lambda folder, **how: wrong)
    error_of(*arguments)
  (folder / "train/cat/new.jpg").write_bytes(jpeg(0))
  message = error_of(*arguments)
  left = tmp_path / "out/pets/1.0.0.incomplete"
  assert f"{left} was left by an unfinished preparation" in message
  assert "images of train was 12 and is 13" in message
  assert "images of test" not in message
  assert f"start anew: rm -r {left}" in message
  os.rename(folder, tmp_path / "other")
  os.unlink(tmp_path / "other/train/cat/new.jpg")
  message = error_of("pets", f"--from={tmp_path}/other", out)
  assert f"source was {str(folder)!r} and is '{tmp_path}/other'" in message


def test_two_at_once(tmp_path):
  folder = write_folder(tmp_path / "pets")
  target = tmp_path / "out/pets/1.0.0"
  plan = {"a": 1}
  with store._claim(str(target), f"{target}.incomplete", plan):
    message = error_of("pets", f"--from={folder}", f"--out={tmp_path}/out")
  assert "is being written by another process" in message


def test_a_finished_set_is_not_written_over(tmp_path):
  folder = write_folder(tmp_path / "pets")
  arguments = ("pets", f"--from={folder}", f"--out={tmp_path}/out")
  run(*arguments)
  before = read_files(tmp_path / "out/pets/1.0.0")
  message = error_of(*arguments)
  assert f"{tmp_path}/out/pets/1.0.0 exists" in message
  assert read_files(tmp_path / "out/pets/1.0.0") == before


SMALL_SHARDS = (
  "import sys; from sslx import prepare; from sslx.data import store;"
  "store._SHARD = 5; prepare.main(sys.argv[1:])"
)


def start(*arguments, code=None, **options):
  how = ["-c", code] if code else ["-m", "sslx.prepare"]
  return subprocess.Popen(
    [sys.executable, *how, *map(str, arguments)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def children_of(pid):
  tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
  return [c for t in tasks for c in (t / "children").read_text().split()]


def gone(pid):
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
  except OSError:
    return True


def wait_for(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it did not come"
    time.sleep(0.01)


needs_proc = pytest.mark.skipif(
  not pathlib.Path("/proc/self/task").is_dir(), reason="needs Linux's /proc"
)


@pytest.mark.slow
@needs_proc
def test_killed_and_resumed_is_the_same_as_straight(tmp_path):
  folder = write_folder(tmp_path / "pets", train=25, test=5, size=(1200, 900))
  arguments = ("pets", f"--from={folder}", "--short_side=300", "--workers=2")

  straight = start(*arguments, f"--out={tmp_path}/1", code=SMALL_SHARDS)
  assert straight.communicate()[1] == ""
  expected = read_files(tmp_path / "1/pets_short300_q90/1.0.0")
  assert len(expected) == 10 + 2 + 4

  killed = start(*arguments, f"--out={tmp_path}/2", code=SMALL_SHARDS)
  left = tmp_path / "2/pets_short300_q90/1.0.0.incomplete"
  done = lambda: sorted(left.glob("*-of-000??"))
  wait_for(lambda: len(done()) >= 2)
  workers = children_of(killed.pid)
  assert workers
  killed.kill()
  killed.wait()
  try:
    wait_for(lambda: all(map(gone, workers)), seconds=20)
  finally:  # Not to leave them behind, should they not have ended.
    for pid in workers:
      if not gone(pid):
        os.kill(int(pid), signal.SIGKILL)
  killed.communicate()
  first = {path: path.stat().st_mtime_ns for path in done()}
  assert 2 <= len(first) < 12
  assert not (left / "dataset_info.json").exists()

  resumed = start(*arguments, f"--out={tmp_path}/2", code=SMALL_SHARDS)
  output, error = resumed.communicate()
  assert error == ""
  assert "train: 50 images\n" in output
  made = tmp_path / "2/pets_short300_q90/1.0.0"
  assert read_files(made) == expected
  for path, mtime in first.items():
    assert (made / path.name).stat().st_mtime_ns == mtime
  assert sorted(os.listdir(made)) == sorted(expected)


def test_stopped_by_the_keyboard(tmp_path):
  folder = write_folder(tmp_path / "pets", train=20, size=(2400, 1800))
  arguments = ("pets", f"--from={folder}", "--short_side=300", "--workers=2")
  process = start(
    *arguments,
    f"--out={tmp_path}/out",
    # A test run in the background ignores it, and so would its children; and
    # Python drops what is raised in a callback of its garbage collector.
    code="import gc, signal\n"
    "gc.disable()\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    + SMALL_SHARDS.replace("5", "20"),
    start_new_session=True,
  )
  left = tmp_path / "out/pets_short300_q90/1.0.0.incomplete"
  wait_for(lambda: list(left.glob("*.partial")))
  os.killpg(process.pid, signal.SIGINT)  # As a terminal does.
  _, error = process.communicate(timeout=30)
  # The workers say nothing; the command makes a message of what is left.
  assert error.strip().endswith("KeyboardInterrupt")
  assert error.count("Traceback") == 1
  assert process.returncode == -signal.SIGINT
  assert not list(left.glob("*-of-000??"))  # They did not go on to the end.


@needs_proc
def test_a_worker_that_ends_is_an_error(tmp_path):
  folder = write_folder(tmp_path / "pets", train=30, size=(1200, 900))
  arguments = ("pets", f"--from={folder}", "--short_side=300", "--workers=2")
  process = start(*arguments, f"--out={tmp_path}/out", code=SMALL_SHARDS)
  left = tmp_path / "out/pets_short300_q90/1.0.0.incomplete"
  wait_for(lambda: list(left.glob("*.partial")))
  for pid in children_of(process.pid):  # As the kernel does for want of memory.
    if "spawn_main" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
      os.kill(int(pid), signal.SIGKILL)
      break
  _, error = process.communicate(timeout=60)
  assert "ConfigError: A worker process was ended" in error


def test_full_disk(tmp_path, small_shards):
  folder = write_folder(tmp_path / "pets", train=20, size=(400, 300))
  arguments = ("pets", f"--from={folder}", f"--out={tmp_path}/out")
  code = (
    "import resource, runpy;"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
    "runpy.run_module('sslx.prepare', run_name='__main__')"
  )
  full = start(*arguments, "--workers=1", code=code)
  _, error = full.communicate()
  assert full.returncode == 1
  assert error.startswith("error: ")
  assert error.count("\n") == 1
  assert "cannot be written: write() failed: File too large" in error
  assert "run the same command again to go on" in error
  assert os.listdir(tmp_path / "out/pets") == ["1.0.0.incomplete"]
  run(*arguments)
  assert len(source_of(tmp_path, "train")) == 40


def test_verify_names_all_that_is_wrong(tmp_path, small_shards, capsys):
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out)
  capsys.readouterr()
  run("pets", out, "--verify")
  made = tmp_path / "out/pets/1.0.0"
  assert capsys.readouterr().out == (
    f"{made} is in order: train 12, test 4 images\n"
    "  checksums: all 7 files are as they were written\n"
    "  16 of 16 images were decoded\n"
  )
  run("pets", out, "--verify=quick")
  assert capsys.readouterr().out == (
    f"{made} is in order: train 12, test 4 images\n"
    "  checksums: not compared, so a byte that changed may go unnoticed\n"
    "  16 of 16 images were decoded\n"
  )
  shard = [made / f"pets-train.array_record-0000{i}-of-00003" for i in range(3)]
  os.truncate(shard[0], shard[0].stat().st_size // 2)
  content = bytearray(shard[1].read_bytes())
  content[content.index(b"\xff\xd8") + 50] ^= 255  # In the first record.
  shard[1].write_bytes(content)
  shard[2].unlink()
  (made / "pets-train.array_record-00003-of-00004").touch()
  message = error_of("pets", out, "--verify")
  assert f"{shard[0]} has changed since it was written" in message
  assert f"{shard[1]} has changed since it was written" in message
  assert f"{shard[2]} is missing" in message
  assert "array_record-00003-of-00004 is not in SHA256SUMS" in message
  assert "pets-test" not in message
  assert f"prepare it again: rm -r {made}" in message
  message = error_of("pets", out, "--verify=quick")
  assert f"{shard[0]} is missing, cut short or unreadable" in message
  assert f"{shard[1]} is damaged inside" in message
  assert f"{shard[2]} is missing, cut short or unreadable" in message


def test_checksums_are_those_of_sha256sum(tmp_path):
  folder = write_folder(tmp_path / "pets")
  run("pets", f"--from={folder}", f"--out={tmp_path}/out")
  made = tmp_path / "out/pets/1.0.0"
  done = subprocess.run(
    ["sha256sum", "--check", "--strict", "SHA256SUMS"],
    cwd=made,
    check=False,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.count(": OK") == 5


def test_verify_finds_every_byte_that_changed(tmp_path, small_shards):
  """As many as `SSLX_BYTES` says, anywhere in any file of the set."""
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out)
  made = tmp_path / "out/pets/1.0.0"
  rng = np.random.default_rng(0)
  paths = sorted(made.iterdir())
  sizes = np.array([path.stat().st_size for path in paths])
  count = int(os.environ.get("SSLX_BYTES", "40"))
  # Each file once at least; the small ones would hardly be drawn.
  drawn = rng.choice(len(paths), count, p=sizes / sizes.sum()).tolist()
  for i in [*range(len(paths)), *drawn]:
    content = paths[i].read_bytes()
    changed = bytearray(content)
    place = rng.integers(len(content))
    changed[place] ^= rng.integers(1, 256)
    paths[i].write_bytes(changed)
    with pytest.raises(config.ConfigError):
      run("pets", out, "--verify")
    paths[i].write_bytes(content)
  run("pets", out, "--verify")


def test_verify_decodes_all_where_there_are_no_checksums(tmp_path, capsys):
  folder = write_folder(tmp_path / "pets", train=200)
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out)
  made = tmp_path / "out/pets/1.0.0"
  (made / "SHA256SUMS").unlink()
  capsys.readouterr()
  run("pets", out, "--verify")
  printed = capsys.readouterr().out
  assert "checksums: there are none, so a byte that changed may" in printed
  assert "404 of 404 images were decoded" in printed
  run("pets", out, "--verify=quick")
  assert "260 of 404 images were decoded" in capsys.readouterr().out
  # One that no sample has.
  (path,) = made.glob("pets-train*")
  content = path.read_bytes()
  starts = [m.start() for m in re.finditer(b"\xff\xd8\xff", content)]
  sampled = set(np.linspace(0, 399, 256).astype(int).tolist())
  row = next(i for i in range(400) if i not in sampled)
  path.write_bytes(content[: starts[row]] + b"no" + content[starts[row] + 2 :])
  run("pets", out, "--verify=quick")
  with pytest.raises(config.ConfigError, match="is damaged"):
    run("pets", out, "--verify")
  # A file of the names of classes, shortened.
  path.write_bytes(content)
  (made / "label.labels.txt").write_text("cat\n")
  with pytest.raises(config.ConfigError, match="names"):
    run("pets", out, "--verify")


def test_verify_looks_into_records(tmp_path, monkeypatch):
  """Files that are whole may hold what is no image, or no class."""
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  with monkeypatch.context() as patch:
    patch.setattr(shards, "encode", lambda data, form: (b"no image", None))
    message = error_of("pets", f"--from={folder}", out)
  assert "record 0: 8 bytes that do not decode" in message
  os.rename(tmp_path / "out", tmp_path / "1")
  run("pets", f"--from={folder}", out)
  made = tmp_path / "out/pets/1.0.0"
  features = made / "features.json"
  features.write_text(features.read_text().replace('"2"', '"1"'))
  (made / "label.labels.txt").write_text("cat\n")
  (made / "SHA256SUMS").unlink()
  assert "label 1 is not one of 1 classes" in error_of("pets", out, "--verify")
  info = made / "dataset_info.json"
  info.write_text(info.read_text().replace('"12"', '"13"'))
  message = error_of("pets", out, "--verify")
  assert "holds 12 records where dataset_info.json says 13" in message


def test_verify_metadata(tmp_path):
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out)
  (tmp_path / "out/pets/1.0.0/features.json").write_text("{")
  assert "json files are damaged" in error_of("pets", out, "--verify")
  assert "NAME='cats' is not" in error_of("cats", out, "--verify")
  missing = error_of("cifar10", out, "--verify")
  assert "NAME='cifar10' is not prepared" in missing
  assert "config." not in missing


def test_verify_finds_records_without_image(tmp_path):
  from tests.data import sources_test

  sources_test.write_set(tmp_path / "tiny/1.0.0", key="picture")
  message = error_of("tiny", f"--out={tmp_path}", "--verify")
  assert "record 0: it has no image" in message


def test_verify_pixels(tmp_path):
  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out, "--raw=18")
  run("pets_raw18", out, "--verify")


@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    (["--raw=8", "--short_side=8"], "--raw stores pixels"),
    (["--raw=8", "--quality=8"], "--raw stores pixels"),
    (["--quality=90"], "give --short_side"),
    (["--short_side=0"], "--short_side=0 is not from 1 to 4096"),
    (["--raw=-1"], "--raw=-1 is not from 1 to 4096"),
    (["--short_side=9", "--quality=101"], "--quality=101 is not from 1 to 100"),
    (["--from={tmp}/absent"], "--from='{tmp}/absent' does not exist"),
    (["--from={tmp}/empty"], "no images in {tmp}/empty or below"),
    (
      ["--verify", "--out={tmp}/absent"],
      "{tmp}/absent does not exist. Set --out",
    ),
  ],
)
def test_bad_flags(tmp_path, flags, expected):
  (tmp_path / "empty").mkdir()
  flags = [flag.format(tmp=tmp_path) for flag in flags]
  message = error_of("pets", f"--out={tmp_path}", *flags)
  assert expected.format(tmp=tmp_path) in message
  assert os.listdir(tmp_path) == ["empty"]


def test_number_of_workers():
  with pytest.raises(config.ConfigError, match="--workers=0 is not positive"):
    prepare.main(["pets", "--from=x", "--workers=0"])


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("cifar10", "is that of another set"),
    ("folder", "is that of another set"),
    ("My-Pets", "is not a name"),
    ("pets/small", "is not a name"),
  ],
)
def test_bad_names(tmp_path, name, expected):
  folder = write_folder(tmp_path / "pets")
  message = error_of(name, f"--from={folder}", f"--out={tmp_path}/out")
  assert f"{name!r} {expected}" in message


def test_classes_without_a_printable_name(tmp_path):
  folder = write_folder(tmp_path / "pets", classes=("cat", "dog\n"))
  message = error_of("pets", f"--from={folder}", f"--out={tmp_path}/out")
  assert "not printable text, such as 'dog\\n'" in message


def test_small_images_do_not_become_smaller(tmp_path):
  from tests.data import sources_test

  sources_test.write_set(tmp_path / "tiny/1.0.0")
  message = error_of("tiny", f"--out={tmp_path}", "--raw=2")
  assert "are small and held in memory" in message


def test_sets_of_tfds_are_written_by_tfds(tmp_path, monkeypatch, capsys):
  from tests.data import sources_test

  monkeypatch.setitem(sys.modules, "tensorflow", sources_test.FakeTensorflow())
  images = np.zeros((7, 32, 32, 3), np.uint8)
  asked = {}

  def download_and_prepare(builder, **arguments):
    asked.update(arguments)
    sources_test.write_set(pathlib.Path(builder.data_path), images=images)

  monkeypatch.setattr(
    tfds.core.DatasetBuilder, "download_and_prepare", download_and_prepare
  )
  run("cifar10", f"--out={tmp_path}/new/out")
  assert asked == {"file_format": "array_record"}
  made = f"{tmp_path}/new/out/cifar10/3.0.2"
  assert f"{made} is in order: train 7 images" in capsys.readouterr().out


def test_imagenet_without_its_files(tmp_path):
  message = error_of("imagenet2012", f"--out={tmp_path}")
  assert "have to be downloaded by hand" in message
  assert "python -m sslx.prepare imagenet2012" in message


def test_the_command_of_the_readme(tmp_path):
  """As a user gives it: its own process, workers of its own, real flags."""
  readme = (ROOT / "README.md").read_text()
  command = "python -m sslx.prepare pets --from=/data/pets --out=/data/tfds"
  assert command in readme
  write_folder(tmp_path / "data/pets", train=600)
  command = command.replace("/data", f"{tmp_path}/data").split()[3:]
  process = start(*command, "--workers=2")
  output, error = process.communicate()
  assert (process.returncode, error) == (0, "")
  assert "1,204/1,204 images" in output
  assert f"--config.data.data_dir={tmp_path}/data/tfds" in output
  source = tfds.data_source(
    "pets", data_dir=tmp_path / "data/tfds", split="train"
  )
  assert len(source) == 1200
  info = json.loads(
    (tmp_path / "data/tfds/pets/1.0.0/dataset_info.json").read_text()
  )
  assert info["splits"][0]["shardLengths"] == ["600", "600"]


def test_errors_are_one_line(tmp_path):
  process = start("pets", f"--from={tmp_path}/absent", f"--out={tmp_path}")
  output, error = process.communicate()
  assert (process.returncode, output) == (1, "")
  assert error.startswith("error: --from=")
  assert error.count("\n") == 1


def test_sets_may_be_sent_to_workers(tmp_path):
  import pickle

  folder = write_folder(tmp_path / "pets")
  out = f"--out={tmp_path}/out"
  run("pets", f"--from={folder}", out)
  found = sources.load(sources.Source("pets", str(tmp_path / "out")), "train")
  assert isinstance(found, records.Records)
  for images in (found, files.open_files(str(folder), None, "train")):
    again = pickle.loads(pickle.dumps(images))
    assert again.read(np.arange(3))[0] == images.read(np.arange(3))[0]
