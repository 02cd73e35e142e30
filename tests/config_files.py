"""Config files for tests."""

import pathlib

from sslx import config as config_lib

EMPTY = {"model": {}, "data": {}, "schedule": {}, "runtime": {}}


def write(folder: pathlib.Path, name: str, body: str) -> str:
  """A config file whose `get_config` is this Python: an expression or lines."""
  if "return" not in body:
    body = f"return {body}"
  lines = "".join(f"  {line}\n" for line in body.splitlines())
  file = folder / name
  file.parent.mkdir(exist_ok=True, parents=True)
  file.write_text(
    "from ml_collections import ConfigDict\n"
    "from sslx.config import inherit, ref\n"
    f"def get_config():\n{lines}"
  )
  return str(file)


def write_whole(folder: pathlib.Path, name: str, content: dict) -> str:
  """A config file with this content, and empty sections for what is missing."""
  return write(folder, name, repr(EMPTY | content))


def load(spec, overrides=()):
  """A config with contents of a test's own, which no settings class knows."""
  return config_lib.read(spec, overrides).config()
