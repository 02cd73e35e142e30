"""The persistent compilation cache: on by default, moved, off."""

import pathlib

import jax
import pytest

from sslx import command

NAMES = (
  "jax_compilation_cache_dir",
  "jax_compilation_cache_max_size",
  "jax_enable_compilation_cache",
  "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def config(monkeypatch):
  """JAX's settings, put back after the test; none is from outside."""
  before = {name: getattr(jax.config, name) for name in NAMES}
  jax.config.update("jax_compilation_cache_dir", None)
  jax.config.update("jax_compilation_cache_max_size", -1)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_it_is_in_the_user_s_cache(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  command._set_cache(None)
  folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
  assert folder.parent == tmp_path / "sslx" and folder.is_dir()
  # The kind of CPU is in its name: homes are shared between machines.
  assert folder.name == f"xla-{command._machine()}"
  assert jax.config.jax_compilation_cache_max_size == 8 * 2**30


def test_a_flag_moves_it_and_the_environment_is_respected(tmp_path):
  command._set_cache(str(tmp_path / "mine"))
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
  assert jax.config.jax_compilation_cache_max_size == -1  # Not ours to delete.
  command._set_cache(None)
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_it_can_be_off():
  command._set_cache("off")
  assert not jax.config.jax_enable_compilation_cache
  assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_made_is_a_note(tmp_path, capsys):
  (tmp_path / "file").write_text("")
  command._set_cache(str(tmp_path / "file" / "below"))
  assert "no compilation cache in" in capsys.readouterr().out
  assert jax.config.jax_compilation_cache_dir is None
