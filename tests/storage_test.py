"""Paths and writes, on a disk and in a store."""

import os
import stat

import pytest
from etils import epath

from sslx import storage
from sslx.errors import StorageError
from tests import fake_store


def test_paths_are_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", "/home/me")
  for text, path in (
    ("run", f"{tmp_path}/run"),
    ("~/run", "/home/me/run"),
    ("/a/../b", "/b"),
  ):
    assert os.fspath(storage.path(text, "--workdir")) == path


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "--workdir is empty"),
    ("hdfs://x/y", "hdfs:// is not a store that sslx writes to. Use gs://"),
    ("memory://x", "memory:// is not a store"),
  ],
)
def test_paths_that_are_none_are_one_clear_error(text, message):
  with pytest.raises(StorageError, match=message):
    storage.path(text, "--workdir")


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gcs"), ("s3", "s3")])
def test_a_missing_package_is_named(scheme, extra, monkeypatch):
  import fsspec

  def missing(protocol):
    raise ImportError(f"Please install {protocol}fs")

  monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
  with pytest.raises(StorageError, match=rf"pip install 'sslx\[{extra}\]'"):
    storage.path(f"{scheme}://bucket/run", "--workdir")


def test_a_write_replaces_the_file_or_leaves_it(tmp_path, monkeypatch):
  path = epath.Path(tmp_path / "file")
  storage.write(path, "old")
  storage.write(path, b"new")
  assert path.read_text() == "new"

  def fails(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(storage.os, "fsync", fails)
  with pytest.raises(StorageError, match="file cannot be written: No space"):
    storage.write(path, "newer")
  assert path.read_text() == "new"
  monkeypatch.undo()
  storage.write(path, "newest")  # What the failure left is in nobody's way.
  assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_data_are_on_the_disk_before_the_old_file_goes(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(
    storage.os,
    "fsync",
    lambda fd: calls.append("file" if _is_file(fd) else "folder"),
  )
  replace = os.replace
  monkeypatch.setattr(
    storage.os,
    "replace",
    lambda *paths: (calls.append("replace"), replace(*paths)),
  )
  storage.write(epath.Path(tmp_path / "file"), "text")
  assert calls == ["file", "replace", "folder"]


def _is_file(descriptor):
  return stat.S_ISREG(os.fstat(descriptor).st_mode)


def test_a_write_does_not_go_through_a_link(tmp_path):
  (tmp_path / "precious").write_text("mine")
  for name in ("file", "file.new"):
    (tmp_path / name).symlink_to(tmp_path / "precious")
  storage.write(epath.Path(tmp_path / "file"), "ours")
  assert (tmp_path / "precious").read_text() == "mine"
  assert (tmp_path / "file").read_text() == "ours"
  assert not (tmp_path / "file").is_symlink()


def test_a_store_takes_files_and_folders(tmp_path):
  with fake_store.at(tmp_path):
    folder = storage.path("gs://bucket/run", "--workdir")
    assert storage.is_remote(folder)
    storage.make_folder(folder)
    storage.write(folder / "file", "text")
    assert (folder / "file").read_text() == "text"
  assert (tmp_path / "bucket" / "run" / "file").read_text() == "text"


def test_an_error_of_a_store_is_one_line(tmp_path):
  path = epath.Path("gs://bucket/file")
  with pytest.raises(StorageError, match="cannot be read: no credentials"):
    with storage.accessing(path, "read"):
      raise ValueError("no credentials\nand a long explanation")
  with pytest.raises(ValueError):  # On a disk it is a bug.
    with storage.accessing(epath.Path(tmp_path), "read"):
      raise ValueError
