"""Small configs in MMSelfSup's format, and what becomes of changed ones."""

import functools

from sslx import config as config_lib
from sslx import optim
from sslx.config import ConfigError
from sslx.config.reference import resolve
from sslx.config.tree import leaves, plain
from sslx.migrate import read, translate
from sslx.settings import load, typed
from tests import recipes, tiny

FOLDER = tiny.ROOT / "tests" / "migrate" / "mmselfsup"
# The recipe of each.
RECIPES = {
  "barlow-twins_8xb256": "barlow-twins_resnet50_8xb256-coslr-300e_in1k",
  "byol_16xb256": "byol_resnet50_16xb256-coslr-200e_in1k",
  "mae_8xb512": "mae_vit-base-p16_8xb512-bf16-coslr-800e_in1k",
  "mocov1_8xb32": "mocov2_resnet50_8xb32-coslr-200e_in1k",
  "mocov2_8xb32": "mocov2_resnet50_8xb32-coslr-200e_in1k",
  "mocov3-resnet_8xb512": "mocov3_resnet50_8xb512-bf16-coslr-100e_in1k",
  "mocov3-vit_16xb256": (
    "mocov3_vit-small-p16-h12_16xb256-bf16-coslr-300e_in1k"
  ),
  "relative-loc_8xb64": "relative-loc_resnet50_8xb64-steplr-70e_in1k",
  "simclr_8xb32": "simclr_resnet50_8xb32-coslr-200e_in1k",
  "simsiam_8xb32": "simsiam_resnet50_8xb32-coslr-200e_in1k",
  "swav_8xb32": "swav_resnet50_8xb32-mcrop-2-6-coslr-200e_in1k-224-96",
}
FILES = [FOLDER / f"{name}.py" for name in RECIPES]


@functools.cache
def trees():
  """Content of every recipe."""
  return {file: resolve(typed(str(file)).tree) for file in recipes.SHIPPED}


def values_of(name):
  """What a file says."""
  return read.read(FOLDER / f"{name}.py").values


GONE = object()


def changed(values, path, value):
  """The values with another one at a path, or with `GONE` without it."""
  key, *rest = path
  old = values[key] if key in values or isinstance(values, tuple) else {}
  new = changed(old, rest, value) if rest else value
  if isinstance(values, tuple):
    return values[:key] + (() if new is GONE else (new,)) + values[key + 1 :]
  return {k: v for k, v in (values | {key: new}).items() if v is not GONE}


def migrated(name, **changes):
  """A file with changed values, dots of their paths as double underscores."""
  values = values_of(name)
  for path, value in changes.items():
    keys = [int(x) if x.isdigit() else x for x in path.split("__")]
    values = changed(values, keys, value)
  return translate(values, name, trees())


def told(found):
  """Why each key is not in the command."""
  return {key: why for key, _, why in found.notes}


def settings(found):
  """What the command runs, by dotted key, and the peak of the rate."""
  config = load(str(found.recipe), found.overrides)
  optimizer = config_lib.build(
    optim.Optimizer, config.schedule.optimizer, "schedule.optimizer"
  )
  peak = optim.peak_lr(optimizer, config.data.batch_size)
  return dict(leaves(plain(config))) | {"peak": round(peak, 9)}


def leaf_values(values, path=()):
  """Path and value of every leaf."""
  if isinstance(values, dict) and values:
    items = values.items()
  elif isinstance(values, tuple) and any(
    isinstance(item, dict | tuple) for item in values
  ):
    items = enumerate(values)
  else:
    yield path, values
    return
  for key, value in items:
    yield from leaf_values(value, (*path, key))


def outcome(values, name, trees):
  """The recipe, its flags and notes; or what is refused, in one line."""
  try:
    found = translate(values, name, trees)
  except ConfigError as error:
    assert "\n" not in str(error)
    return str(error)
  return found.recipe, found.overrides, repr(found.notes)
