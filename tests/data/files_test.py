"""Folders, patterns and lists of image files; the files need no content."""

import glob
import importlib.util
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sslx import config
from sslx.data import crops, files, find, formats
from tests.data import photos

TREE = (
  "train/cat/b.jpg",
  "train/cat/deep/er/a.JPEG",
  "train/dog/d.png",
  "train/dog/c.webp",
  "train/dog/notes.txt",
  "train/.hidden/x.jpg",
  "train/dog/.x.jpg",
  "val/dog/1.jpg",
)


def make(root, paths=TREE):
  for path in paths:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(path.encode())
  return str(root)


def names_of(found):
  return [os.path.relpath(found.name(i), found.root) for i in range(len(found))]


def error_of(*arguments, **keywords):
  with pytest.raises(config.ConfigError) as caught:
    files.open_files(*arguments, **keywords)
  return str(caught.value)


def test_classes_are_the_sub_folders(tmp_path):
  train = files.open_files(make(tmp_path), None, "train")
  assert train.root == str(tmp_path / "train")
  assert names_of(train) == [
    "cat/b.jpg",
    "cat/deep/er/a.JPEG",
    "dog/c.webp",
    "dog/d.png",
  ]
  assert train.classes == ("cat", "dog")
  assert train.num_classes == 2
  assert train.notes == []
  images, labels = train.read([3, 0, 1])
  assert images == [
    b"train/dog/d.png",
    b"train/cat/b.jpg",
    b"train/cat/deep/er/a.JPEG",
  ]
  assert labels.dtype == np.int32
  assert labels.tolist() == [1, 0, 0]


def test_labels_stay_with_their_paths_where_folders_sort_unlike_paths(tmp_path):
  # "a-b" < "a/" as paths, and "a" < "a-b" as folders.
  root = make(tmp_path, ["a/x.jpg", "a-b/x.jpg"])
  found = files.open_files(root, ".", "train")
  assert names_of(found) == ["a-b/x.jpg", "a/x.jpg"]
  assert [found.classes[i] for i in found.labels] == ["a-b", "a"]


def test_the_test_split_is_numbered_like_the_train_split(tmp_path):
  root = make(tmp_path)
  test = files.open_files(root, None, "test", ("ant", "cat", "dog"))
  assert names_of(test) == ["dog/1.jpg"]
  assert test.read([0])[1].tolist() == [2]
  assert test.num_classes == 3
  message = error_of(root, "val", "test", ("cat",))
  assert (
    "config.data.test='val' has 1 classes that the train split does not have"
    in (message)
  )
  assert "'dog'" in message
  test = files.open_files(root, None, "test", None)
  assert test.num_classes is None
  assert test.read([0])[1].tolist() == [-1]
  assert "its labels are not used" in test.notes[0]


@pytest.mark.parametrize(
  ("folders", "role", "expected"),
  [
    (["train", "val", "x"], "train", "train"),
    (["a", "b"], "train", "."),
    (["train", "test", "validation"], "test", "validation"),
    (["train", "test"], "test", "test"),
    (["train"], "test", None),
  ],
)
def test_default_splits(tmp_path, folders, role, expected):
  make(tmp_path, [f"{folder}/c/x.jpg" for folder in folders])
  found = files.open_files(str(tmp_path), None, role, ("c",))
  if expected is None:
    assert found is None
  else:
    assert found.root == os.path.normpath(tmp_path / expected)


@pytest.mark.parametrize(
  ("folders", "role", "expected"),
  [
    (["Train", "Val"], "train", "Train"),
    (["Train", "Val"], "test", "Val"),
    (["TRAIN", "Test"], "test", "Test"),
    (["train", "Train", "val"], "train", None),
    (["train", "VAL", "val"], "test", None),
    (["train", "Train", "val"], "test", "val"),
  ],
)
def test_splits_with_capitals(tmp_path, folders, role, expected):
  make(tmp_path, [f"{folder}/c/x.jpg" for folder in folders])
  if expected is None:
    message = error_of(str(tmp_path), None, role, ("c",))
    assert f"Set config.data.{role} to one of them" in message
  else:
    found = files.open_files(str(tmp_path), None, role, ("c",))
    assert found.root == os.path.normpath(tmp_path / expected)


def unread_tree(root):
  """Images that no Pillow reads, as it is or with a plugin."""
  make(root, ["train/a/1.jpg", "train/b/2.JPG", "train/a/no image.csv"])
  make(root, [f"train/a/{i}.ARW" for i in range(3)])
  make(root, ["train/b/deep/x.svg", "train/b/.hidden.svg", "train/b/y.dcm"])
  return str(root)


@pytest.mark.parametrize("split", [None, "train", "train/**/*"])
def test_images_that_are_not_read_are_told_of_once(tmp_path, split):
  found = files.open_files(unread_tree(tmp_path), split, "train")
  assert names_of(found) == ["a/1.jpg", "b/2.JPG"]
  (note,) = found.notes
  assert "not read are 3 .arw (camera raw; convert" in note
  assert "1 .dcm (" in note and "1 .svg (drawings" in note
  assert "csv" not in note


def test_only_images_that_are_not_read_are_an_error_that_says_so(tmp_path):
  root = make(tmp_path, ["a/1.svg", "a/2.svg"])
  for split in (".", "**/*"):
    message = error_of(root, split, "train")
    assert "There are 2 .svg (drawings; convert them to PNG)." in message
  (tmp_path / "list.txt").write_text("a/1.svg 0\na/2.svg 1\n")
  message = error_of(root, "list.txt", "train")
  assert "2 of 2 lines name images that are not read here: 2 .svg" in message


def test_what_a_plugin_would_read_is_said(tmp_path, monkeypatch):
  readable = {x: y for x, y in formats._readable().items() if y != "HEIF"}
  monkeypatch.setattr(formats, "_readable", lambda: readable)
  root = make(tmp_path, ["a/1.jpg", *(f"a/{i}.HEIC" for i in range(20))])
  (note,) = files.open_files(root, "*/*", "train").notes[:1]
  assert "20 .heic (pip install pillow-heif)" in note


@pytest.mark.skipif(
  importlib.util.find_spec("pillow_heif") is None, reason="no pillow-heif"
)
def test_what_a_plugin_reads_is_read(tmp_path):
  make(tmp_path, ["a.heic"])
  Image.fromarray(photos.photo(32, 48)).save(tmp_path / "a.heic")
  found = files.open_files(str(tmp_path), ".", "train")
  assert found.notes == [] and len(found) == 1
  (data,), _ = found.read([0])
  assert crops.decode(data).shape == (32, 48, 3)


def test_a_test_folder_is_not_taken_for_a_class(tmp_path):
  make(tmp_path, ["training/c/x.jpg", "val/c/x.jpg"])
  message = error_of(str(tmp_path), None, "train")
  assert "has a sub-folder 'val' but no 'train'" in message
  assert files.open_files(str(tmp_path), ".", "train").classes == (
    "training",
    "val",
  )


def test_flat_folder_has_no_labels(tmp_path):
  root = make(tmp_path, ["b.jpg", "a.jpg", "empty/readme.md"])
  found = files.open_files(root, None, "train")
  assert names_of(found) == ["a.jpg", "b.jpg"]
  assert found.num_classes is None
  images, labels = found.read(np.array([1]))
  assert images == [b"b.jpg"]
  assert labels.dtype == np.int32
  assert labels.tolist() == [-1]


def test_mixed_layout(tmp_path):
  root = make(tmp_path, ["top.jpg", "cat/a.jpg", "cat/b.jpg"])
  message = error_of(root, None, "train")
  assert "1 images at its top, such as 'top.jpg'" in message
  assert "2 in sub-folders, such as 'cat/a.jpg'" in message
  # What the message says to do.
  found = files.open_files(root, "**/*", "train")
  assert names_of(found) == ["cat/a.jpg", "cat/b.jpg", "top.jpg"]
  assert found.num_classes is None


def test_empty_folder_lists_the_extensions(tmp_path):
  make(tmp_path, ["a/notes.txt", "b/movie.mp4"])
  message = error_of(str(tmp_path), None, "train")
  assert f"no images in {tmp_path} or below that are read here. Im" in message


def test_class_without_images_keeps_its_number(tmp_path):
  root = make(tmp_path, ["a/x.jpg", "b/readme.md", "c/x.jpg"])
  found = files.open_files(root, None, "train")
  assert found.classes == ("a", "b", "c")
  assert found.labels.tolist() == [0, 2]
  assert len(found.notes) == 1
  assert "1 of 3 classes have no images, such as 'b'" in found.notes[0]


def test_one_class_says_nothing(tmp_path):
  found = files.open_files(make(tmp_path, ["images/x.jpg"]), None, "train")
  assert "'images' is the only class" in found.notes[0]


@pytest.mark.parametrize(
  "extension",
  "avif bmp gif jfif jp2 jpe jpeg jpg mpo pbm pgm png pnm ppm qoi tga tif tiff"
  " webp JPG Png".split(),
)
def test_endings_that_pillow_reads(tmp_path, extension):
  root = make(tmp_path, [f"a.{extension}", "b.txt", extension, "c.jpg.part"])
  found = files.open_files(root, None, "train")
  assert names_of(found) == [f"a.{extension}"]


@pytest.mark.parametrize(
  ("pattern", "names", "classes"),
  [
    ("train/*/*.jpg", ["cat/b.jpg"], ("cat",)),
    ("train/d?g/*", ["dog/c.webp", "dog/d.png"], ("dog",)),
    ("train/cat/*.jpg", ["b.jpg"], None),
    (
      "*/dog/*.[jp]*",
      ["train/dog/d.png", "val/dog/1.jpg"],
      ("train", "val"),
    ),
    (
      "train/**/*",
      ["cat/b.jpg", "cat/deep/er/a.JPEG", "dog/c.webp", "dog/d.png"],
      ("cat", "dog"),
    ),
  ],
)
def test_patterns(tmp_path, pattern, names, classes):
  found = files.open_files(make(tmp_path), pattern, "train")
  assert names_of(found) == names
  assert found.classes == classes
  if classes:
    assert [found.classes[i] for i in found.labels] == [
      name.partition("/")[0] for name in names
    ]


def test_patterns_find_capitals_too(tmp_path):
  names = ["a/1.jpg", "a/2.JPG", "B/3.Jpg", "B/deep/4.jPG", "5.JPG"]
  root = make(tmp_path, [*names, "a/6.jpeg", "a/.7.jpg", ".h/8.jpg"])
  find_ = lambda split: sorted(names_of(files.open_files(root, split, "train")))
  assert find_("**/*.jpg") == sorted(names)
  assert find_("?/*.JPG") == ["B/3.Jpg", "a/1.jpg", "a/2.JPG"]
  assert find_("?/*.[J]p*g") == ["B/3.Jpg", "a/1.jpg", "a/2.JPG", "a/6.jpeg"]
  assert find_("**/deep/**") == ["B/deep/4.jPG"]
  assert find_("*/.*.jpg") == ["a/.7.jpg"]


@pytest.mark.parametrize(
  "pattern",
  ["**/*", "**/*.jpg", "*/*", "*/**/x.*", "**/**/b/*", "a*/?*/**", "**/x.png"],
)
def test_patterns_are_those_of_glob(tmp_path, pattern):
  """Of names in small letters, which are not glob's own business."""
  folders = ["", "a", "ab", "a/b", "a/b/b", "c/.b", "c/b/a"]
  names = [f"{f}/{n}".lstrip("/") for f in folders for n in ("x.jpg", "x.png")]
  root = make(tmp_path, names)
  expected = glob.glob(pattern, root_dir=root, recursive=True)
  expected = {x for x in expected if os.path.isfile(os.path.join(root, x))}
  found = names_of(files.open_files(root, pattern, "train"))
  assert found == sorted(expected) and len(set(found)) == len(found)


def test_patterns_that_match_no_image(tmp_path):
  root = make(tmp_path)
  message = error_of(root, "train/c*", "train")
  assert "matches no image" in message
  assert "matches no image" in error_of(root, "train/dog/n*", "train")
  assert "'FOLDER/**/*'" in message
  assert "tarin is not a folder" in error_of(root, "tarin/*/*.jpg", "train")


def test_the_root_may_hold_wildcards(tmp_path):
  root = make(tmp_path / "a[1]*")
  assert len(files.open_files(root, "train/*/*.jpg", "train")) == 1
  assert len(files.open_files(root, None, "train")) == 4


def write_list(tmp_path, text):
  root = make(tmp_path, ["a b.jpg", "sub/c 1.jpg", "d.PNG", "e.png f.jpg"])
  (tmp_path / "list.txt").write_bytes(text.encode())
  return root


def test_list_without_labels(tmp_path):
  text = "sub/c 1.jpg\r\n\r\na b.jpg\r\ne.png f.jpg"
  found = files.open_files(write_list(tmp_path, text), "list.txt", "train")
  assert names_of(found) == ["sub/c 1.jpg", "a b.jpg", "e.png f.jpg"]
  assert found.num_classes is None
  assert found.read([0])[0] == [b"sub/c 1.jpg"]


def test_list_with_named_labels(tmp_path):
  text = "sub/c 1.jpg polar bear\na b.jpg cat\nd.PNG  polar bear\n"
  root = write_list(tmp_path, text)
  found = files.open_files(root, "list.txt", "train")
  assert names_of(found) == ["sub/c 1.jpg", "a b.jpg", "d.PNG"]
  assert found.classes == ("cat", "polar bear")
  assert found.labels.tolist() == [1, 0, 1]
  classes = ("ant", "cat", "polar bear")
  found = files.open_files(root, "list.txt", "test", classes)
  assert found.labels.tolist() == [2, 1, 2]
  assert "such as 'polar bear'" in error_of(root, "list.txt", "test", ("cat",))


def test_list_with_integer_labels(tmp_path):
  root = write_list(tmp_path, "sub/c 1.jpg 10\na b.jpg 2\n")
  found = files.open_files(root, "list.txt", "train")
  assert found.labels.tolist() == [10, 2]
  assert found.num_classes == 11
  assert "9 of 11 classes have no images" in found.notes[0]
  # Integers are numbers of the train split's classes, or their names.
  letters = tuple("abcdefghijk")
  found = files.open_files(root, "list.txt", "test", letters)
  assert found.labels.tolist() == [10, 2]
  assert found.classes == letters
  found = files.open_files(root, "list.txt", "test", ("1", "10", "2"))
  assert found.labels.tolist() == [1, 2]
  assert "such as '10'" in error_of(root, "list.txt", "test", letters[:10])


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("\n \n", "list.txt' is empty"),
    ("a b.jpg 1\nd.PNG\n", "1 of 2 lines have no label, such as line 2"),
    (
      "a b.jpg\n\nd.pgn 1\n",
      "1 lines name no image, such as line 3: 'd.pgn 1'",
    ),
    ("a b.jpg 20260731\n", "labels go up to 20260731"),
    (
      "a b.jpg\n" + "".join(f"{i}.jpg\n" for i in range(3000)),
      "3000 of 3001 files do not exist, such as '0.jpg', '1.jpg', '2.jpg',"
      " '3.jpg', '4.jpg'. Paths",
    ),
  ],
)
def test_bad_lists(tmp_path, text, expected):
  message = error_of(write_list(tmp_path, text), "list.txt", "train")
  assert "config.data.train='list.txt'" in message
  assert expected in message
  assert len(message) < 600


def test_list_of_mere_names_is_found_in_the_class_folders(tmp_path):
  """Such as the official 1 % of ImageNet, in folders as they are usual."""
  root = make(
    tmp_path,
    [
      *(f"train/{c}/{c}_{i}.JPEG" for c in ("n2", "n10", "n1") for i in (7, 8)),
      "train/n1/deep/n1_9.JPEG",
      "train/n10/same.jpg",
      "train/n2/same.jpg",
      "val/n10/val_1.JPEG",
    ],
  )
  (tmp_path / "part.txt").write_text("n2_8.JPEG\nn1_9.JPEG\r\nn2_7.JPEG\n")
  train = files.open_files(root, "part.txt", "train")
  assert train.root == str(tmp_path / "train")
  assert names_of(train) == [
    "n2/n2_8.JPEG",
    "n1/deep/n1_9.JPEG",
    "n2/n2_7.JPEG",
  ]
  # All classes of the folder, so that the labels are those of the whole set.
  assert train.classes == ("n1", "n10", "n2")
  assert train.labels.tolist() == [2, 0, 2]
  assert "1 of 3 classes have no images, such as 'n10'" in train.notes[0]
  test = files.open_files(root, None, "test", train.classes)
  assert test.labels.tolist() == [1]
  for text, expected in {
    "n2_8.JPEG\nn3_1.JPEG": "1 of 2 images are not in the set, such as"
    " 'n3_1.JPEG'; ",
    "n2_8.JPEG\nsame.jpg": "1 names fit several images, such as 'same.jpg'; ",
    "n2_8.JPEG\nn2_8.JPEG": "lists images twice, such as 'n2_8.JPEG'.",
  }.items():
    (tmp_path / "part.txt").write_text(text)
    message = error_of(root, "part.txt", "train")
    assert f"{tmp_path}/part.txt" in message
    assert expected in message


@pytest.mark.parametrize(
  ("split", "expected"),
  [
    ("tran", "tran is not a folder"),
    ("lists/x.txt", "lists/x.txt is not a file"),
    ("train/cat/b.jpg", "b.jpg is not a folder"),
    ("train[:10%]", "Only prepared sets have slices"),
  ],
)
def test_no_such_split(tmp_path, split, expected):
  message = error_of(make(tmp_path), split, "test", ("cat", "dog"))
  assert f"config.data.test={split!r}" in message
  assert expected in message
  assert "has 'train', 'val'" in message


def test_bad_data_dir(tmp_path):
  (tmp_path / "file").touch()
  assert "data_dir is not set" in error_of(None, None, "train")
  assert "absent' does not exist" in error_of(
    f"{tmp_path}/absent", None, "train"
  )
  message = error_of(f"{tmp_path}/file", None, "train", key="--from")
  assert message.startswith(f"--from='{tmp_path}/file' is a file")


def test_folder_that_may_not_be_read(tmp_path, monkeypatch):
  root = make(tmp_path)
  scandir = os.scandir

  def locked(path):  # By hand, because root may read everything.
    if path.endswith("dog"):
      raise PermissionError(13, "Permission denied", path)
    return scandir(path)

  monkeypatch.setattr(os, "scandir", locked)
  message = error_of(root, "train", "train")
  assert f"Permission denied: '{tmp_path}/train/dog'" in message
  assert "Give read access" in message


def test_links_are_followed_and_a_circle_is_an_error(tmp_path):
  root = make(tmp_path, ["data/cat/a.jpg"])
  (tmp_path / "set").mkdir()
  (tmp_path / "set/dog").symlink_to(tmp_path / "data/cat")
  assert names_of(files.open_files(root, "set", "train")) == ["dog/a.jpg"]
  (tmp_path / "data/cat/loop").symlink_to(tmp_path / "data/cat")
  for split in ("data", "**/*", "data/**/*.jpg"):
    message = error_of(root, split, "train")
    assert f"cat/loop is a link to {tmp_path}/data/cat, the folder" in message
    assert "Remove the link" in message
  assert len(files.open_files(root, "data/cat/*", "train")) == 1


def test_a_circle_of_two_links_is_an_error_and_two_ways_are_not(tmp_path):
  root = make(tmp_path, ["set/a/1.jpg", "x/2.jpg", "y/3.jpg"])
  (tmp_path / "set/a/x").symlink_to(tmp_path / "x")
  (tmp_path / "set/a/also x").symlink_to(tmp_path / "x")
  assert len(files.open_files(root, "set", "train")) == 3
  (tmp_path / "x/y").symlink_to(tmp_path / "y")
  (tmp_path / "y/x").symlink_to(tmp_path / "x")
  assert "is a link to" in error_of(root, "set", "train")


def test_unreadable_files_are_empty(tmp_path):
  root = make(tmp_path, ["a/1.jpg", "a/2.jpg"])
  (tmp_path / "a/0.jpg").symlink_to(tmp_path / "nowhere")
  found = files.open_files(root, None, "train")
  os.unlink(tmp_path / "a/2.jpg")
  images, labels = found.read(range(3))
  assert images == [b"", b"a/1.jpg", b""]
  assert labels.tolist() == [0, 0, 0]


def test_names_that_are_not_unicode(tmp_path):
  (tmp_path / "a").mkdir()
  name = os.fsencode(tmp_path) + b"/a/\xff.jpg"
  with open(name, "wb") as file:
    file.write(b"content")
  found = files.open_files(str(tmp_path), None, "train")
  assert found.read([0])[0] == [b"content"]
  assert found.name(0) == f"{tmp_path}/a/\\xff.jpg"


def test_home(tmp_path, monkeypatch):
  make(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  assert len(files.open_files("~", "train", "train")) == 4


def test_a_scan_asks_for_no_stat_of_a_file(tmp_path, monkeypatch):
  root = make(tmp_path, [f"{c}/{i}.jpg" for c in "ab" for i in range(500)])
  asked = []
  for name in ("stat", "lstat"):
    original = getattr(os, name)

    def count(path, *arguments, original=original, **keywords):
      asked.append(path)
      return original(path, *arguments, **keywords)

    monkeypatch.setattr(os, name, count)
  assert len(files.open_files(root, ".", "train")) == 1000
  assert len(files.open_files(root, "*/*.jpg", "train")) == 1000
  assert len(asked) < 20


@pytest.mark.parametrize("split", [".", "**/*.jpg", "list.txt"])
def test_a_scan_holds_no_python_object_for_each_file(
  tmp_path, monkeypatch, split
):
  monkeypatch.setattr(find, "_SORTED", 100)
  count, length = 20_000, len(b"c/.jpg") + 20
  paths = [f"c/{i:020}.jpg" for i in range(count)]
  (tmp_path / "list.txt").write_text("\n".join(f"{p} x" for p in paths))
  (tmp_path / "c").mkdir()
  for path in paths:
    (tmp_path / path).touch()
  files.open_files(str(tmp_path), split, "train")  # What is cached, is.
  tracemalloc.start()
  found = files.open_files(str(tmp_path), split, "train")
  used, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert names_of(found) == paths
  assert used / count < 1.3 * (length + 8 + 4)  # bytes; an end, a label
  # As much again while the parts of it are put together, and no string of
  # Python's, which takes 75.
  assert peak / count < 2.6 * (length + 8 + 4)
