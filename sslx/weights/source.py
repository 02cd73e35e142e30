"""Config section `runtime.init_from`: which weights, and what may not fit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sslx.config import ConfigError

Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 8  # lines of an error


@dataclasses.dataclass(frozen=True)
class InitFrom:
  """Weights to start from; config section `runtime.init_from`.

  Attributes:
    path: workdir of a run, a file of weights, or a folder of timm's or
      transformers'.
    what: which of two networks; by default a run's student, and of a published
      file the network that its paper evaluates.
    step: of a run's checkpoint; the newest by default.
    parts: of a run, such as ("backbone", "projector"). By default all if its
      method is the same, else the backbone.
    ignore: patterns of names, of parameters here or of tensors there, that may
      be missing, left over or of another shape; such keep their first values.
    heads: of a ViT's attention there, where the file does not say.
    eps: of a ViT's LayerNorm there, if the file is wrong about it.
  """

  path: str
  what: Literal["student", "teacher"] | None = None
  step: int | None = None
  parts: tuple[str, ...] | None = None
  ignore: tuple[str, ...] = ()
  heads: int | None = None
  eps: float | None = None

  def ignores(self, name: str) -> bool:
    """Whether it may be missing, left over or of another shape."""
    return any(re.search(pattern, name) for pattern in self.ignore)


class Taken(NamedTuple):
  """Weights for a run.

  Attributes:
    params: parameters by path, `backbone/conv1/kernel`: arrays on the host, or
      laid out as asked for. Those that are not there keep their first values.
    model_state: likewise, BatchNorm statistics.
    notes: what was taken, for the user.
  """

  params: dict[str, Any]
  model_state: dict[str, Any]
  notes: list[str]


def check_fit(
  source: InitFrom, wanted: Shapes, there: Shapes, advice: str
) -> None:
  """Refuses what is missing, left over or of another shape.

  Args:
    source: what the user allows.
    wanted: by name there.
    there: by the same names.
    advice: what to do about it.

  Raises:
    ConfigError: with names and shapes.
  """
  wrong = [
    f"  {name}: {there.get(name, 'absent')} there,"
    f" {wanted.get(name, 'absent')} in this config"
    for name in {**wanted, **there}
    if there.get(name) != wanted.get(name) and not source.ignores(name)
  ]
  if wrong:
    more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    raise ConfigError(
      f"{source.path} does not fit this config: {len(wrong)} tensors differ, of"
      f" {len(wanted)} here and {len(there)} there.\n"
      + "\n".join(wrong[:_SHOWN])
      + f"{more}\n{advice}, or name what may differ by patterns in"
      " config.runtime.init_from.ignore."
    )
