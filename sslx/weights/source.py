"""Config section `runtime.init_from`: which weights, and what may differ."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sslx.config import ConfigError

Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 8  # differences listed in an error


@dataclasses.dataclass(frozen=True)
class InitFrom:
  """Weights to start from; config section `runtime.init_from`.

  Attributes:
    path: workdir of a run, a file of weights, or a folder that timm or
      transformers wrote.
    what: which of two networks; by default the one that the paper evaluates.
    step: step of a run's checkpoint; by default the newest.
    parts: parts of a run to load, such as ("backbone", "projector"). By default
      all that the network has if its method is the same, else the backbone.
    ignore: patterns of tensor names. Tensors that match may be missing, left
      over or of another shape; parameters of this run then keep their initial
      values.
    heads: number of heads of the file's ViT, if the file does not say.
    eps: LayerNorm epsilon of the file's ViT, if the file states a wrong one.
  """

  path: str
  what: Literal["student", "teacher"] | None = None
  step: int | None = None
  parts: tuple[str, ...] | None = None
  ignore: tuple[str, ...] = ()
  heads: int | None = None
  eps: float | None = None

  def ignores(self, name: str) -> bool:
    """Whether a tensor may be missing, left over or of another shape."""
    return any(re.search(pattern, name) for pattern in self.ignore)


class Taken(NamedTuple):
  """Weights loaded for a run.

  Attributes:
    params: parameters by path, `backbone/conv1/kernel`; arrays on the host, or
      sharded as requested. Absent parameters keep their initial values.
    model_state: BatchNorm statistics in the same form.
    notes: messages for the user that say what was loaded.
  """

  params: dict[str, Any]
  model_state: dict[str, Any]
  notes: list[str]


def check_fit(
  source: InitFrom, wanted: Shapes, there: Shapes, advice: str
) -> None:
  """Checks that tensors are complete and have the right shapes.

  Args:
    source: says which tensors to ignore.
    wanted: shapes that this run needs, by name.
    there: shapes in the source, by the same names.
    advice: what the user can do, for the message.

  Raises:
    ConfigError: a tensor is missing, left over or of another shape. The message
      lists names and shapes.
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
