"""`runtime.custom_imports`: methods and more from outside sslx."""

import contextlib
import sys

import jax
import numpy as np
import pytest

from sslx import config as config_lib
from sslx import experiment, methods, models, settings
from sslx.axis import Axis
from sslx.config import ConfigError
from sslx.data import sources, views
from tests import tiny
from tests.config_files import write

KEY = jax.random.key(0)
MODULE = """
import dataclasses
import jax
import numpy as np
from sslx import methods, models
from sslx.data import sets, sources, views
from sslx.methods.simclr import SimCLR
from sslx.models.resnet import ResNet

@dataclasses.dataclass(frozen=True)
class Half(SimCLR):
  def loss(self, run):
    return super().loss(run) / 2

class Wide(ResNet):
  pass

def noise(source, split):
  rng = np.random.default_rng(len(split))
  images = rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
  return sets.Arrays(images, np.arange(64, dtype=np.int32) % 4, 4)

methods.METHODS["half"] = Half
models.BACKBONES["wide"] = Wide
def erase(images, keys):
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5))(keys)
  return images * keep[:, None, None, None]

sources.SOURCES["noise"] = noise
views.OPERATIONS["erase"] = erase
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
  """A module that adds to sslx, and is forgotten after the test."""
  tables = methods.METHODS, models.BACKBONES, sources.SOURCES, views.OPERATIONS
  for table in tables:
    for name in ("half", "wide", "noise", "erase"):
      monkeypatch.setitem(table, name, None)
      del table[name]
  (tmp_path / "outside_sslx.py").write_text(MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  yield "outside_sslx"
  sys.modules.pop("outside_sslx", None)


def test_a_method_backbone_and_source_from_outside_are_built(outside):
  changes = {
    "model__method": "half",
    "model__backbone__name": "wide",
    "data__source": "noise",
    "runtime__evaluate__knn__k": (20,),
  }
  plain = tiny.config(data__source="shapes")
  assert "half" not in methods.METHODS
  config = tiny.config(runtime__custom_imports=(outside,), **changes)
  assert config.runtime.custom_imports == (outside,)
  built = experiment.build(config, jax.devices()[:1])
  assert type(built.step.method).__name__ == "Half"
  assert type(built.step.method.backbone).__name__ == "Wide"
  assert built.total_steps == 64 // tiny.BATCH
  with contextlib.closing(built.batches()) as batches:
    batch = next(batches)
  state, scalars = jax.eval_shape(
    built.compiled_step(), built.abstract_state, batch
  )
  assert state.step.shape == scalars["loss"].shape == ()
  with pytest.raises(ConfigError, match="method is 'half'; it must be one of"):
    del methods.METHODS["half"]
    experiment.build(config)
  assert plain.runtime.custom_imports == ()


def test_a_config_file_may_ask_for_it(outside, tmp_path):
  base = f"{tiny.ROOT}/configs/simclr.py:quickstart"
  spec = write(
    tmp_path,
    "mine.py",
    f"inherit({base!r}, runtime={{'custom_imports': ({outside!r},)}})",
  )
  config_lib.read(spec)
  assert outside not in sys.modules  # Looking at a config imports nothing.
  settings.load(spec)
  assert methods.METHODS["half"].__module__ == outside


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "('no_such_module',)",
      "'no_such_module', .*ModuleNotFoundError: No module",
    ),
    ("('no_such_module',)", "Is its folder in PYTHONPATH"),
    ("no_such_module", "is 'no_such_module' .str.; it must be a tuple"),
    ("('broken_module',)", "'broken_module', .*ZeroDivisionError: division"),
  ],
)
def test_a_failed_import_stops_the_run(tmp_path, monkeypatch, text, message):
  (tmp_path / "broken_module.py").write_text("1 / 0\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ConfigError, match=message):
    settings.load(
      f"{tiny.ROOT}/configs/simclr.py", [("runtime.custom_imports", text)]
    )


def test_a_single_name_is_refused_with_the_tuple_to_write(tmp_path):
  spec = write(tmp_path, "a.py", """{'model': {}, 'data': {}, 'schedule': {},
    'runtime': {'custom_imports': 'json'}}""")  # fmt: skip
  with pytest.raises(ConfigError, match=r"such as \('json',\)"):
    settings.load(spec)


def test_an_augmentation_from_outside_is_done_last(outside):
  load = lambda: tiny.config(
    runtime__custom_imports=(outside,),
    **{"data.views.0.then": ("erase",)},
  )
  built = experiment.build(load(), jax.devices()[:1])
  assert tiny.config().data.views[0].then == ()
  with contextlib.closing(built.batches()) as batches:
    batch = next(batches)
  mean, std = (np.array(x) for x in (built.data.mean, built.data.std))
  views_of = jax.jit(lambda x: built.step.preprocess(x, KEY, Axis()))
  shown = views_of(batch)[0] * std + mean
  black = (abs(shown) < 1e-5).all((1, 2, 3))
  assert 0 < black.sum() < len(black)
  del views.OPERATIONS["erase"]
  # The module is there already, and adds nothing any more.
  with pytest.raises(ConfigError, match=r"then is \('erase',\); it must be"):
    load()


def test_runtime_may_refer_to_other_sections(tmp_path):
  base = f"{tiny.ROOT}/configs/mae.py"
  spec = write(
    tmp_path,
    "mine.py",
    f"inherit({base!r}, runtime={{'log_every': ref('data.batch_size')}})",
  )
  config = settings.load(spec, [("data.batch_size", "48")])
  assert config.runtime.log_every == 48


def test_a_config_file_is_run_once(tmp_path):
  """Whatever it does besides is done once, and takes its time once."""
  base = f"{tiny.ROOT}/configs/mae.py"
  log = tmp_path / "log"
  lines = (
    f"with open({str(log)!r}, 'a') as file:\n  file.write('x')\n"
    f"return inherit({base!r})"
  )
  settings.load(write(tmp_path, "mine.py", lines))
  assert log.read_text() == "x"
