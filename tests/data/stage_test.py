"""Sets copied from a shared folder or a store to this host."""

import base64
import errno
import hashlib
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import fsspec
import numpy as np
import pytest
import tensorflow_datasets as tfds
from fsspec.implementations import memory

from sslx import config, prepare
from sslx.data import sources, stage, store
from tests import prepare_test, tiny


class Store(memory.MemoryFileSystem):
  """A remote store that knows the MD5 of its objects, as Google's does."""

  protocol = "store"
  cachable = False
  spoil = staticmethod(lambda path: None)
  wrong = ()

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("store://"))

  def ls(self, path, detail=True, **kwargs):
    entries = super().ls(path, detail, **kwargs)
    for entry in entries if detail else ():
      if entry["type"] == "file":
        digest = hashlib.md5(self.cat_file(entry["name"])).digest()
        name = entry["name"].rpartition("/")[2]
        digest = bytes(16) if name in self.wrong else digest
        entry["md5Hash"] = base64.b64encode(digest).decode()
    return entries

  def get_file(self, rpath, lpath, **kwargs):
    super().get_file(rpath, lpath, **kwargs)
    self.spoil(lpath)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
  """A TFDS directory with the set `pets`, of five files with images."""
  root = tmp_path_factory.mktemp("shared")
  folder = prepare_test.write_folder(root / "pets")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(store, "_SHARD", 4)
    prepare_test.run("pets", f"--from={folder}", f"--out={root}/tfds")
  return root / "tfds"


@pytest.fixture
def remote(shared, monkeypatch):
  """The same in a store."""
  fsspec.register_implementation("store", Store, clobber=True)
  monkeypatch.setattr(Store, "store", {})  # Of all stores in memory.
  monkeypatch.setattr(Store, "pseudo_dirs", [""])
  for path in (shared / "pets" / "1.0.0").iterdir():
    Store().pipe_file(f"/tfds/pets/1.0.0/{path.name}", path.read_bytes())
  return Store


def staged(source, target, *more, name="pets"):
  prepare.main(
    [name, f"--from={source}", f"--stage={target}", "--workers=2", *more]
  )


def error_of(source, target, **more):
  with pytest.raises(config.ConfigError) as caught:
    staged(source, target, **more)
  return str(caught.value)


def check(shared, target):
  """The copy is the set, which TFDS and sslx read."""
  new, old = target / "pets" / "1.0.0", shared / "pets" / "1.0.0"
  assert prepare_test.read_files(new) == prepare_test.read_files(old)
  assert (
    len(tfds.builder("pets", data_dir=target).as_data_source("train")) == 12
  )
  found = sources.load(sources.Source("pets", str(target)), "train")
  assert sorted(found.read(np.arange(12))[1]) == [0] * 6 + [1] * 6
  left = {path.name for path in (target / "pets").iterdir()}
  assert left == {"1.0.0", ".1.0.0.lock"}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_from_a_shared_folder(shared, tmp_path, capsys, scheme):
  staged(f"{scheme}{shared}", tmp_path)
  check(shared, tmp_path)
  printed = capsys.readouterr().out
  assert f"{tmp_path}/pets/1.0.0 is copied and checked: " in printed
  assert "MiB/s)" in printed
  assert (
    f"--config.data.source=pets --config.data.data_dir={tmp_path}" in printed
  )


def test_from_a_store(shared, remote, tmp_path):
  staged("store://tfds", tmp_path)
  check(shared, tmp_path)


def test_a_second_call_copies_nothing_and_needs_no_store(
  shared, tmp_path, capsys
):
  staged(shared, tmp_path)
  times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
  capsys.readouterr()
  staged("/no/such/place", tmp_path)
  assert "is there already: " in capsys.readouterr().out
  assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times


def test_the_newest_version_or_that_of_the_name(shared, tmp_path):
  for version in ("9.0.0", "10.0.0", "11.0.0.incomplete"):
    shutil.copytree(shared / "pets/1.0.0", tmp_path / "from/pets" / version)
  staged(tmp_path / "from", tmp_path / "newest")
  assert os.listdir(tmp_path / "newest/pets")[-1:] != []
  assert (tmp_path / "newest/pets/10.0.0").is_dir()
  staged(tmp_path / "from", tmp_path / "named", name="pets:9.0.0")
  assert (tmp_path / "named/pets/9.0.0").is_dir()
  assert "of version 8.0.0 that is prepared" in error_of(
    tmp_path / "from", tmp_path / "none", name="pets:8.0.0"
  )


# Copies as slowly as over a network, and says when it begins a file.
SLOW = """
import sys, time
from sslx import prepare
from sslx.data import stage
copy = stage._copy_file
def slow(*arguments):
  time.sleep(0.5)
  copy(*arguments)
stage._copy_file = slow
prepare.main(sys.argv[1:])
"""


def start_slow(source, target):
  arguments = ["pets", f"--from={source}", f"--stage={target}", "--workers=1"]
  return subprocess.Popen(
    [sys.executable, "-c", SLOW, *arguments],
    cwd=tiny.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def whole(folder):
  """Inode of each file that is copied to its end."""
  return {
    path.name: path.stat().st_ino
    for path in folder.glob("*")
    if path.is_file() and not path.name.endswith(".partial")
  }


def test_killed_it_goes_on(shared, tmp_path):
  process = start_slow(shared, tmp_path)
  incomplete = tmp_path / "pets" / "1.0.0.incomplete"
  end = time.monotonic() + 60
  while len(whole(incomplete)) < 2:
    assert time.monotonic() < end and process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  before = whole(incomplete)
  assert 2 <= len(before) < len(list((shared / "pets/1.0.0").iterdir()))
  assert not (tmp_path / "pets" / "1.0.0").exists()
  (incomplete / "dataset_info.json.partial").write_text("{")
  staged(shared, tmp_path)
  after = whole(tmp_path / "pets" / "1.0.0")
  assert {name: after[name] for name in before} == before
  check(shared, tmp_path)


def test_what_another_source_left_is_not_gone_on_with(shared, tmp_path, capsys):
  other = tmp_path / "other"
  shutil.copytree(shared, other)
  incomplete = tmp_path / "to" / "pets" / "1.0.0.incomplete"
  incomplete.mkdir(parents=True)
  (incomplete / "progress").mkdir()
  (incomplete / "progress/staging.json").write_text('{"source": "elsewhere"}')
  (incomplete / "features.json").write_text("of another set")
  staged(other, tmp_path / "to")
  check(shared, tmp_path / "to")


def test_of_two_processes_one_copies_and_the_other_waits(shared, tmp_path):
  processes = [start_slow(shared, tmp_path) for _ in range(2)]
  outputs = [process.communicate(timeout=120)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  assert sum("is copied and checked" in text for text in outputs) == 1, outputs
  assert sum("is there already" in text for text in outputs) == 1, outputs
  check(shared, tmp_path)


def test_a_file_that_came_short(shared, remote, tmp_path, monkeypatch):
  def spoil(path):
    if "-00001-of-" in path:
      os.truncate(path, 10)

  monkeypatch.setattr(Store, "spoil", staticmethod(spoil))
  error = error_of("store://tfds", tmp_path)
  assert "and 10 were copied. Run the same command again" in error
  monkeypatch.undo()
  staged(shared, tmp_path)
  check(shared, tmp_path)


def test_a_file_that_came_with_errors(shared, remote, tmp_path, monkeypatch):
  monkeypatch.setattr(Store, "wrong", ("features.json",))
  error = error_of("store://tfds", tmp_path)
  assert "features.json was copied with errors: its MD5 is" in error
  assert not (tmp_path / "pets" / "1.0.0").exists()


def test_a_store_that_breaks_off(remote, tmp_path, monkeypatch):
  def breaks(path):
    raise ConnectionResetError("by peer")

  monkeypatch.setattr(Store, "spoil", staticmethod(breaks))
  error = error_of("store://tfds", tmp_path)
  assert "cannot be read: ConnectionResetError: by peer" in error
  assert "run the same command again to go on" in error


def test_a_full_disk(remote, tmp_path, monkeypatch):
  def full(path):
    raise OSError(errno.ENOSPC, "No space left on device", path)

  monkeypatch.setattr(Store, "spoil", staticmethod(full))
  error = error_of("store://tfds", tmp_path)
  assert "cannot be written: [Errno 28] No space left" in error


def test_no_room_is_told_before_anything_is_copied(
  shared, tmp_path, monkeypatch
):
  usage = shutil._ntuple_diskusage(100, 100, 0)
  monkeypatch.setattr(stage.shutil, "disk_usage", lambda path: usage)
  error = error_of(shared, tmp_path)
  assert "GiB are to be copied and 0.0 GiB are free" in error


def test_damage_at_the_source_is_found(shared, tmp_path):
  shutil.copytree(shared, tmp_path / "from")
  path = next((tmp_path / "from/pets/1.0.0").glob("*train*00001-of*"))
  data = bytearray(path.read_bytes())
  image = data.index(b"\xff\xd8\xff")
  data[image : image + 100] = bytes(100)
  path.write_bytes(data)
  error = error_of(tmp_path / "from", tmp_path / "to")
  assert "is damaged" in error
  assert not (tmp_path / "to/pets/1.0.0").exists()


def test_progress_reaches_the_whole(shared, tmp_path):
  seen = []
  found = stage.stage(
    "pets", str(shared), str(tmp_path), 2, lambda *x: seen.append(x)
  )
  assert seen[-1] == (found.num_bytes, found.num_bytes)
  assert [done for done, _ in seen] == sorted(done for done, _ in seen)
  assert found.copied == found.num_bytes > 0


@pytest.mark.parametrize(
  ("source", "name", "message"),
  [
    ("/no/such", "pets", "has no set 'pets': /no/such/pets does not exist"),
    ("nosuch://x", "pets", "--from='nosuch://x': "),
    ("/tmp", "../x", "NAME='../x' is not like"),
  ],
)
def test_bad_input(tmp_path, source, name, message):
  assert message in error_of(source, tmp_path, name=name)


@pytest.mark.parametrize(
  ("scheme", "module"), [("gs", "gcsfs"), ("s3", "s3fs")]
)
def test_a_package_that_is_missing_is_named(tmp_path, scheme, module):
  if importlib.util.find_spec(module):
    pytest.skip(f"{module} is installed")
  error = error_of(f"{scheme}://bucket/tfds", tmp_path)
  extra = {"gs": "gcs", "s3": "s3"}[scheme]
  assert f"takes another package: pip install 'sslx[{extra}]'" in error
  setup = pathlib.Path(tiny.ROOT, "setup.cfg").read_text()
  assert f"\n{extra} =\n    {module}\n" in setup


def test_it_takes_no_other_flags(shared, tmp_path):
  with pytest.raises(config.ConfigError, match="it takes --from alone"):
    staged(shared, tmp_path, "--raw=8")
  with pytest.raises(config.ConfigError, match="give its --from"):
    prepare.main(["pets", f"--stage={tmp_path}"])
