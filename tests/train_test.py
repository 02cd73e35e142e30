"""With what a run starts."""

import os
import types

import jax
import numpy as np
import pytest
from PIL import Image

from sslx import agree, experiment, resume, train
from sslx.checkpoint import CheckpointError
from sslx.config import ConfigError
from sslx.data import crops
from sslx.data.pipeline import iterator_state
from sslx.weights import load, names
from sslx.weights.source import Taken
from tests import tiny


@pytest.mark.parametrize("method", [*tiny.METHODS, "mae", "mocov3", "ijepa"])
def test_every_method_starts_with_the_weights_of_another_run(
  method, monkeypatch
):
  config = tiny.method_config if method in tiny.METHODS else tiny.vit_config
  changed = config(method, runtime__init_from="elsewhere")
  build = (
    tiny.build_method if config is tiny.method_config else experiment.build
  )
  built = build(changed)
  state = jax.device_get(built.init_state())
  weights = jax.tree.map(lambda x: x + 1, (state.params, state.model_state))
  taken = Taken(*map(names.flat, weights), notes=[])
  monkeypatch.setattr(load.of_file, "take", lambda *_: taken)
  none = types.SimpleNamespace(restore=lambda *_: None)
  found, _ = train._start(built, none, {}, lambda _: None)
  for tree, old in zip((found.params, found.model_state), weights, strict=True):
    jax.tree.map(np.testing.assert_array_equal, tree, old)
  # What a method keeps of an encoder follows it, without the predictor.
  for name, old in zip(("params", "model_state"), weights, strict=True):
    for part, copy in found.aux.get(name, {}).items():
      jax.tree.map(np.testing.assert_array_equal, copy, old[part])


@pytest.mark.slow
def test_other_images_on_resume_are_an_error(tmp_path, capsys):
  """A file that was added or moved; with a flag the run goes on."""
  rng = np.random.default_rng(0)
  for i in range(16):
    path = tmp_path / "pets" / ("cat", "dog")[i % 2] / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path)

  def run(**changes):
    config = tiny.config(
      data__source="folder", data__data_dir=str(tmp_path / "pets"), **changes
    )
    return train.run(config, tmp_path / "run")

  run()
  run()  # Nothing is left to do, and nothing has changed.
  os.rename(tmp_path / "pets/cat/0.png", tmp_path / "pets/dog/0.png")
  with pytest.raises(ConfigError) as caught:
    run()
  message = str(caught.value)
  assert "are not those that the run had until step 1" in message
  assert "images were moved to another class" in message
  assert "--config.runtime.checkpoint.changed_data=True" in message
  capsys.readouterr()
  run(runtime__checkpoint__changed_data=True)
  assert "images were moved to another class" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_say_which_images(capsys):
  now = types.SimpleNamespace(decoder="native")
  resume.check_data(now, {}, {"training set": {"images": 1}}, 1, print)
  assert "does not say which images" in capsys.readouterr().out


@pytest.mark.parametrize("before", ["native", "simplejpeg", None])
def test_a_change_of_the_decoder_is_said(before, monkeypatch):
  monkeypatch.setattr(crops, "_native", None)
  built = tiny.build_method(tiny.method_config("simclr"))
  assert built.decoder == "simplejpeg"
  data = {"training set": {"images": 1}}
  metadata = {"data": data} | ({"decoder": before} if before else {})
  state = types.SimpleNamespace(step=np.int32(7))
  stored = types.SimpleNamespace(
    restore=lambda *_: (state, iterator_state(7)),
    directory="runs/a",
    metadata=lambda step: metadata if step == 7 else {},
  )
  said = []
  assert train._start(built, stored, data, said.append) == (state, True)
  told = "until step 7 the JPEG decoder was 'native', and here" in said[0]
  assert told == (before == "native")
  assert len(said) == 1 + told


def test_processes_with_other_decoders_are_refused(monkeypatch):
  compared = []
  peers = types.SimpleNamespace(check_same=lambda *args: compared.append(args))
  for native in (object(), None):
    monkeypatch.setattr(crops, "_native", native)
    job = types.SimpleNamespace(peers=peers)
    agree.check_processes(job, tiny.config())
  (_, ours, differs, _), (_, theirs, *_) = compared
  assert differs(ours, ours) == ""
  assert differs(ours, theirs) == (
    "JPEG decoder is 'simplejpeg' there and 'native' in process 0"
  )


def test_a_run_whose_images_come_in_another_order_is_refused_in_one_line():
  resume.check_order(iterator_state(7), 7, "the checkpoint")
  older = {"next_index": 7}  # before the order had a number
  for data in (older, iterator_state(8), iterator_state(7) | {"order": 3}):
    with pytest.raises(CheckpointError, match="init_from") as refused:
      resume.check_order(data, 7, "the checkpoint")
    assert str(refused.value).count("\n") == 0
    assert f"{data}, and not {iterator_state(7)}" in str(refused.value)
