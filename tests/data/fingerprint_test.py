"""What is told of a set that is not the one it was."""

import os

import numpy as np
import pytest

from sslx.data import files, fingerprint, sets, sources
from tests.data import sources_test


@pytest.fixture
def folder(tmp_path):
  for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/3.jpg"):
    (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "pets" / name).write_bytes(name.encode())
  return tmp_path / "pets"


def of_folder(folder):
  return fingerprint.of(files.open_files(str(folder), None, "train"))


def add(folder):
  (folder / "cat/9.jpg").write_bytes(b"new")


def move(folder):
  os.rename(folder / "cat/2.jpg", folder / "dog/2.jpg")


def rename(folder):
  os.rename(folder / "cat/2.jpg", folder / "cat/4.jpg")


def replace(folder):
  (folder / "cat/2.jpg").write_bytes(b"another")


def swap_classes(folder):
  os.rename(folder / "cat", folder / "x")
  os.rename(folder / "dog", folder / "cat")
  os.rename(folder / "x", folder / "dog")


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (add, ["number of images was 4 and is 5", "were added"]),
    (move, ["removed or renamed", "another class"]),
    (rename, ["removed or renamed"]),
    (replace, ["contents were replaced"]),
    (swap_classes, ["removed or renamed"]),
  ],
)
def test_a_folder_that_changed(folder, change, words):
  then = of_folder(folder)
  assert of_folder(folder) == then
  change(folder)
  told = fingerprint.differences({"set": then}, {"set": of_folder(folder)})
  for word in words:
    assert any(word in line for line in told), told
  assert all(line.startswith("the set: ") for line in told)


def test_a_folder_is_the_same_elsewhere(folder):
  then = of_folder(folder)
  os.rename(folder, folder.parent / "elsewhere")
  assert of_folder(folder.parent / "elsewhere") == then


def test_labels_in_a_list(folder):
  def of_list(text):
    (folder / "list.txt").write_text(text)
    return fingerprint.of(files.open_files(str(folder), "list.txt", "train"))

  then = of_list("cat/1.jpg a\ncat/2.jpg b\n")
  now = of_list("cat/1.jpg b\ncat/2.jpg a\n")
  assert fingerprint.differences({"set": then}, {"set": now}) == [
    "the set: labels: images were moved to another class"
  ]


def test_arrays():
  images = np.zeros((4, 2, 2, 3), np.uint8)
  labels = np.arange(4, dtype=np.int32)
  then = fingerprint.of(sets.Arrays(images, labels, 4))
  assert then == fingerprint.of(sets.Arrays(images.copy(), labels, 4))
  other = images.copy()
  other[3, 1, 1, 2] = 1
  for changed, word in (
    (sets.Arrays(other, labels, 4), "pixels"),
    (sets.Arrays(images, labels[::-1], 4), "labels"),
    (sets.Arrays(images, labels, 5), "classes was 4 and is 5"),
  ):
    told = fingerprint.differences(
      {"set": then}, {"set": fingerprint.of(changed)}
    )
    assert len(told) == 1
    assert word in told[0]


def test_a_prepared_set(tmp_path):
  """Slices, and files that were written anew."""

  def of_split(split):
    source = sources.Source("large", str(tmp_path), train=split)
    return fingerprint.of(sources.load(source, "train"))

  sources_test.write_set(tmp_path / "large/1.0.0", shape=(100, 100, 3))
  then = of_split(None)
  assert of_split("train") == then
  told = fingerprint.differences(
    {"set": then}, {"set": of_split("train[:50%]")}
  )
  assert "the set: the files of the prepared set, or the slice of it" in told
  sums = tmp_path / "large/1.0.0/SHA256SUMS"
  names = [p.name for p in sorted(sums.parent.glob("*record*"))]
  sums.write_text("".join(f"{'0' * 64}  {name}\n" for name in names))
  known = of_split(None)
  # A set whose checksums were written later is the same set.
  assert fingerprint.differences({"set": then}, {"set": known}) == []
  sums.write_text("".join(f"{'1' * 64}  {name}\n" for name in names))
  told = fingerprint.differences({"set": known}, {"set": of_split(None)})
  assert told == ["the set: the checksums of the prepared set's files"]


def test_sets_that_came_or_went():
  one = {"training set": {"images": 1}}
  both = one | {"test set": {"images": 1}}
  assert fingerprint.differences(one, both) == ["the test set is there now"]
  assert fingerprint.differences(both, one) == [
    "the test set is no longer there"
  ]


class Outside(sets.Images):
  """A set from outside sslx that says nothing of itself."""

  def __len__(self):
    return 7


def test_a_set_from_outside():
  assert fingerprint.of(Outside()) == {"images": 7, "classes": None}


class Tagged(Outside):
  """One that says something of its own."""

  def __init__(self, tag):
    self.tag = tag

  def fingerprint(self):
    return {"tag": self.tag}


def test_what_a_set_from_outside_says_of_itself_counts():
  one, two = ({"set": fingerprint.of(Tagged(tag))} for tag in "ab")
  assert fingerprint.differences(one, one) == []
  assert fingerprint.differences(one, two) == ["the set: tag"]
