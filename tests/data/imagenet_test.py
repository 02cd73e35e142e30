"""Tar files as those of the official download, with small images."""

import io
import os
import re
import tarfile

import numpy as np
import pytest

from sslx import config
from sslx.data import imagenet

WNIDS = ("n01443537", "n15075141", "n01440764")  # Not in the order of labels.
# The first validation images' classes, as published by the challenge.
VAL = ("n01751748", "n09193705", "n02105855", "n04263257", "n03125729")


def tar_of(files):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as tar:
    for name, data in files:
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return buffer.getvalue()


def content(name):
  """Bytes of a length of their own, which are not to be taken for others."""
  return name.encode() * (1 + sum(name.encode()) % 300)


def images_of(wnid):
  return [f"{wnid}_{i}.JPEG" for i in (7, 10, 123)]


def val_name(i):
  return f"ILSVRC2012_val_{i:08}.JPEG"


def write_tars(folder, val=range(1, 6)):
  folder.mkdir(parents=True, exist_ok=True)
  inner = [
    (f"{w}.tar", tar_of([(n, content(n)) for n in images_of(w)])) for w in WNIDS
  ]
  (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
  names = [val_name(i) for i in val]
  (folder / "ILSVRC2012_img_val.tar").write_bytes(
    tar_of([(name, content(name)) for name in names])
  )
  return str(folder)


def write_folders(folder, flat):
  for wnid in WNIDS:
    (folder / "train" / wnid).mkdir(parents=True)
    for name in images_of(wnid):
      (folder / "train" / wnid / name).write_bytes(content(name))
  for i, wnid in enumerate(VAL, 1):
    into = folder / "val" if flat else folder / "val" / wnid
    into.mkdir(parents=True, exist_ok=True)
    (into / val_name(i)).write_bytes(content(val_name(i)))
  return str(folder)


def described(images):
  """{file name: (bytes, name of the class)}."""
  found, labels = images.read(np.arange(len(images)))
  names = imagenet.classes()
  return {
    images.file_name(i): (data, names[label])
    for i, (data, label) in enumerate(zip(found, labels, strict=True))
  }


EXPECTED = {
  "train": {n: (content(n), w) for w in WNIDS for n in images_of(w)},
  "validation": {
    val_name(i): (content(val_name(i)), w) for i, w in enumerate(VAL, 1)
  },
}


@pytest.mark.parametrize("layout", ["tars", "folders", "flat"])
def test_images_and_labels(tmp_path, layout):
  if layout == "tars":
    folder = write_tars(tmp_path)
  else:
    folder = write_folders(tmp_path, flat=layout == "flat")
  splits, notes = imagenet.open_splits(folder, partial=True)
  assert {name: described(s) for name, s in splits.items()} == EXPECTED
  for images in splits.values():
    assert images.num_classes == 1000
    assert images.read(np.array([1]))[1].dtype == np.int32
  assert notes == [
    f"--from={folder!r}: {text}."
    for text in (
      "train has 9 images and the original 1,281,167",
      "1000 of the 1000 classes in train do not have 732 to 1300 images, such"
      f" as n01440764 with {3 if 'n01440764' in WNIDS else 0}",
      "validation has 5 images and the original 50,000",
      "1000 of the 1000 classes in validation do not have 50 images, such as"
      " n01440764 with 0",
    )
  ]


def test_other_counts_are_an_error(tmp_path, monkeypatch):
  """Of images in all, of a class, of classes; of either split."""
  folder = write_tars(tmp_path)
  message = error_of(folder)
  assert "is not all of ImageNet 2012: train has 9 images and" in message
  assert "validation has 5 images and the original 50,000" in message
  assert message.endswith("or accept it: --partial")
  # An original as small as ours, to see each count by itself.
  monkeypatch.setattr(imagenet, "classes", lambda: WNIDS + VAL)
  monkeypatch.setattr(imagenet, "_SIZES", {"train": 9, "validation": 5})
  whole = {"train": (0, 3), "validation": (0, 1)}
  monkeypatch.setattr(imagenet, "_OF_A_CLASS", whole)
  assert imagenet.open_splits(folder)[1] == []
  sizes = {"train": 9, "validation": 6}
  with monkeypatch.context() as patch:
    patch.setattr(imagenet, "_SIZES", sizes)
    assert "validation has 5 images and the original 6" in error_of(folder)
    assert "train has" not in error_of(folder)
  monkeypatch.setattr(imagenet, "_OF_A_CLASS", whole | {"train": (3, 3)})
  assert (
    "5 of the 8 classes in train do not have 3 images, such as n01751748 with 0"
    in error_of(folder)
  )


def test_labels_are_numbered_as_by_tfds(tmp_path):
  import tensorflow_datasets as tfds

  label = tfds.builder("imagenet2012", data_dir=tmp_path).info.features["label"]
  assert list(imagenet.classes()) == label.names


def test_images_are_read_in_any_order_and_named_in_messages(tmp_path):
  splits, _ = imagenet.open_splits(write_tars(tmp_path), partial=True)
  train = splits["train"]
  order = np.array([5, 0, 8, 5])
  images, labels = train.read(order)
  assert images == [content(train.file_name(i)) for i in order]
  assert labels.tolist() == train.labels[order].tolist()
  assert train.name(0) == (
    f"n01443537_7.JPEG in {tmp_path}/ILSVRC2012_img_train.tar"
  )


def error_of(folder):
  with pytest.raises(config.ConfigError) as caught:
    imagenet.open_splits(str(folder))
  return str(caught.value)


def test_nothing_of_imagenet(tmp_path):
  assert "has neither ILSVRC2012_img_train.tar and" in error_of(tmp_path)
  assert "https://image-net.org" in error_of(tmp_path)
  (tmp_path / "train").mkdir()
  assert "nor the folder 'val'" in error_of(tmp_path)


def test_one_tar_file_alone(tmp_path):
  write_tars(tmp_path)
  os.unlink(tmp_path / "ILSVRC2012_img_val.tar")
  assert "has only one of" in error_of(tmp_path)


def damage(data, how):
  """Ways in which a tar file fails to be what was downloaded."""
  data = bytearray(data)
  # The header of a file, where `tarfile` takes most damage for the end.
  headers = [m.start() - 257 for m in re.finditer(b"ustar", data)]
  middle = headers[len(headers) // 2]
  match how:
    case "cut":
      return data[: middle + 700]
    case "cut between files":
      return data[:middle]
    case "zeros in the middle":
      data[middle : middle + 1024] = bytes(1024)  # All of one file of a class.
    case "junk in the middle":
      data[middle : middle + 1024] = b"junk" * 256
    case "no end":
      return data.rstrip(b"\0") + bytes(512 - len(data.rstrip(b"\0")) % 512)
    case "junk after the end":
      return data + b"junk"
  return data


@pytest.mark.parametrize(
  "how",
  [
    *("cut", "cut between files", "zeros in the middle", "junk in the middle"),
    *("no end", "junk after the end"),
  ],
)
@pytest.mark.parametrize("which", ["train", "validation", "class"])
def test_a_damaged_tar_file(tmp_path, which, how):
  """Each is noticed, though other numbers of images are accepted."""
  write_tars(tmp_path, val=range(1, 40))
  if which == "class":
    files = [(n, b"x" * 100) for n in images_of(WNIDS[0])]
    inner = [
      (f"{WNIDS[0]}.tar", damage(tar_of(files), how)),
      (f"{WNIDS[1]}.tar", tar_of(files)),
    ]
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
  elif which == "train":
    files = [(f"{w}.tar", tar_of([])) for w in imagenet.classes()[:20]]
    tar = tmp_path / "ILSVRC2012_img_train.tar"
    tar.write_bytes(damage(tar_of(files), how))
  else:
    tar = tmp_path / "ILSVRC2012_img_val.tar"
    tar.write_bytes(damage(tar.read_bytes(), how))
  with pytest.raises(config.ConfigError) as caught:
    imagenet.open_splits(str(tmp_path), partial=True)
  assert "cannot be read to its end" in str(caught.value)


def test_other_images(tmp_path):
  folder = tmp_path / "cats"
  for path in ("train/cat/1.jpg", "val/cat/2.jpg"):
    (folder / path).parent.mkdir(parents=True)
    (folder / path).touch()
  message = error_of(folder)
  assert "is not ImageNet 2012: 1 of its 1 parts" in message
  assert "['cat']" in message


@pytest.mark.parametrize("val", [[50_001], [0]])
def test_validation_images_of_unknown_class(tmp_path, val):
  write_tars(tmp_path, val=val)
  message = error_of(tmp_path)
  assert "1 images are not called ILSVRC2012_val_00000001.JPEG" in message
  assert repr(val_name(val[0])) in message
