"""A store behind gs:// that is a local folder."""

import contextlib
import importlib
import os

import fsspec
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem


def _file_system(root):
  class Store(LocalFileSystem):
    """Maps gs://bucket/x to root/bucket/x."""

    protocol = ("gcs", "gs")
    cachable = False

    def __init__(self, finalize_on_close=True, **settings):
      super().__init__(auto_mkdir=True, **settings)

    @classmethod
    def _strip_protocol(cls, path):
      path = os.fspath(path)
      for prefix in ("gs://", "gcs://"):
        if path.startswith(prefix):
          return os.path.join(root, path.removeprefix(prefix)).rstrip("/")
      return path.rstrip("/")

    def listdir(self, path, detail=True, **settings):
      return self.ls(path, detail=detail, **settings)

  return Store


@contextlib.contextmanager
def at(root):
  """The store, while the context is open."""
  backend.fsspec_backend._get_filesystem.cache_clear()
  fsspec.register_implementation("gcs", _file_system(str(root)), clobber=True)
  try:
    yield
  finally:
    importlib.import_module("fsspec.registry")._registry.pop("gcs")
    backend.fsspec_backend._get_filesystem.cache_clear()
