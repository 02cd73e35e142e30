"""From a config of MMSelfSup to the nearest recipe of sslx."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

from sslx.config import mmselfsup
from sslx.config.errors import ConfigError
from sslx.config.files import typed
from sslx.config.reference import resolve
from sslx.config.translate import translate, values_equal
from sslx.config.tree import leaves

# What weighs more than any number of single keys.
_WEIGHTS = ((r"model\.backbone\..*|data\.source", 100), (r"data\.views.*", 3))
_REASONS = {
  r"default_scope|.*_scope_": "classes are found by import, not by scope",
  r"custom_imports": "runtime.custom_imports, for modules written for JAX",
  r"env_cfg|launcher": "XLA and --distributed see to it",
  r"vis|log_|default_hooks\.(timer|param|logger|runtime)": "always on",
  r"default_hooks\.sampler|.*sampler|randomness": "order hangs on runtime.seed",
  r".*(_workers|pin_memory|collate_fn)": "sslx has its own loader",
  r".*(data_root|ann_file|data_prefix)": "data.data_dir, where the set lies",
  r"optim_wrapper\.paramwise_cfg": "schedule.optimizer.exclude and others",
  r"resume": "a run goes on by itself from the checkpoints in its workdir",
  r"load_from": "runtime.init_from, a run or a file of weights",
}


@dataclasses.dataclass(frozen=True)
class Migration:
  """What to run instead of an MMSelfSup config.

  Attributes:
    recipe: the nearest one.
    overrides: (key, text of the value) that make it say the same.
    absent: sslx keys that the recipe does not set, with the values wanted.
    left: MMSelfSup's keys without counterpart, with their values.
    unread: what is not data in its files.
  """

  recipe: pathlib.Path
  overrides: list[tuple[str, str]]
  absent: dict[str, Any]
  left: dict[str, Any]
  unread: list[str]

  def __str__(self) -> str:
    """A report, with the command to run."""
    command = [
      "python -m sslx.main",
      f"--config={shlex.quote(str(self.recipe))}",
      "--workdir=WORKDIR",
      *(shlex.quote(f"--config.{k}={v}") for k, v in self.overrides),
    ]
    lines = [f"nearest recipe: {self.recipe}", "", " \\\n    ".join(command)]
    if self.absent:
      lines += ["", "not set by the recipe; check what its method has instead:"]
      lines += [f"  {key} = {value!r}" for key, value in self.absent.items()]
    if self.left:
      lines += ["", "no counterpart:"]
      lines += [
        f"  {key} = {value!r}{_reason(key)}" for key, value in self.left.items()
      ]
    if self.unread:
      lines += ["", "not read:", *(f"  {text}" for text in self.unread)]
    return "\n".join(lines)


def migrate(file: pathlib.Path, recipes: Sequence[pathlib.Path]) -> Migration:
  """Finds the recipe that differs least from an MMSelfSup config.

  Args:
    file: in MMSelfSup's format; it is read as data and never executed.
    recipes: of sslx, to choose from.

  Raises:
    ConfigError: the file cannot be read, or no recipe has its method.
  """
  foreign = mmselfsup.read(file)
  values = {
    key: value
    for key, value in foreign.values.items()
    if key not in foreign.helpers
  }
  try:
    wanted, left = translate(values, file.stem)
  except (AttributeError, TypeError, LookupError, ValueError) as error:
    raise ConfigError(
      f"{file} is not in MMSelfSup's format: {type(error).__name__}: {error}."
    ) from error
  method = _letters(wanted.pop("model.method"))
  trees = {recipe: resolve(typed(str(recipe)).tree) for recipe in recipes}
  methods = {recipe: tree["model"]["method"] for recipe, tree in trees.items()}
  near = [recipe for recipe in recipes if _letters(methods[recipe]) == method]
  if not near:
    raise ConfigError(
      f"{file} is of method {method!r}; there are recipes of"
      f" {', '.join(sorted(set(methods.values())))}."
    )
  changes = {recipe: _changes(trees[recipe], wanted) for recipe in near}
  # Names decide only between equals: where bases are missing there are many.
  recipe = min(
    near, key=lambda x: (_distance(changes[x]), _unlike(x.stem, file.stem))
  )
  own = dict(leaves(trees[recipe]))
  present = {k: v for k, v in changes[recipe].items() if k in own}
  return Migration(
    recipe,
    [(k, v if isinstance(v, str) else repr(v)) for k, v in present.items()],
    {k: v for k, v in changes[recipe].items() if k not in own},
    left,
    foreign.unread,
  )


def _changes(tree: dict, wanted: dict[str, Any]) -> dict[str, Any]:
  """What is wanted and is not so in a recipe."""
  wanted = dict(wanted)
  peak = wanted.pop("schedule.optimizer.lr", None)
  own = dict(leaves(tree))
  if peak is not None:
    optimizer = tree["schedule"]["optimizer"]
    batch = wanted.get("data.batch_size", tree["data"]["batch_size"])
    power = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}[
      optimizer.get("lr_scaling", "linear")
    ]
    ratio = (batch / optimizer.get("lr_batch", 256)) ** power
    wanted["schedule.optimizer.lr"] = float(f"{peak / ratio:.6g}")
  return {
    key: value
    for key, value in wanted.items()
    if not values_equal(value, own.get(key))
    # LARC is what MMSelfSup calls LARS.
    and (key, value, own.get(key))
    != ("schedule.optimizer.name", "lars", "larc")
  }


def _distance(changes: dict[str, Any]) -> int:
  weight = lambda key: next(
    (w for pattern, w in _WEIGHTS if re.fullmatch(pattern, key)), 1
  )
  return sum(map(weight, changes))


def _unlike(one: str, two: str) -> int:
  words = [set(re.split("[-_]", name)) for name in (one, two)]
  return len(words[0] ^ words[1])


def _reason(key: str) -> str:
  for pattern, reason in _REASONS.items():
    if re.match(pattern, key):
      return f"  ({reason})"
  return ""


def _letters(name: str) -> str:
  """A method's name, whichever way its words are joined."""
  return re.sub(r"[^a-z0-9]", "", name.lower())
