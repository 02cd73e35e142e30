"""The methods, by their name in a config's `model.method`."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx.config import Choice
from sslx.methods.barlow_twins import BarlowTwins
from sslx.methods.base import Method, Plan, check_class
from sslx.methods.byol import BYOL
from sslx.methods.dino import DINO
from sslx.methods.dinov2 import DINOv2
from sslx.methods.finetune import Finetune
from sslx.methods.ibot import IBOT
from sslx.methods.ijepa import IJEPA
from sslx.methods.lejepa import LeJEPA
from sslx.methods.linear import Linear
from sslx.methods.mae import MAE
from sslx.methods.moco import MoCo
from sslx.methods.mocov3 import MoCoV3
from sslx.methods.relative_loc import RelativeLoc
from sslx.methods.simclr import SimCLR
from sslx.methods.simsiam import SimSiam
from sslx.methods.swav import SwAV
from sslx.methods.vicreg import VICReg

METHODS = {
  "simclr": SimCLR,
  "mocov2": MoCo,
  "swav": SwAV,
  "relative_loc": RelativeLoc,
  "mocov3": MoCoV3,
  "byol": BYOL,
  "simsiam": SimSiam,
  "mae": MAE,
  "ijepa": IJEPA,
  "dino": DINO,
  "ibot": IBOT,
  "dinov2": DINOv2,
  "barlow_twins": BarlowTwins,
  "vicreg": VICReg,
  "lejepa": LeJEPA,
  "linear": Linear,
  "finetune": Finetune,
}


@dataclasses.dataclass(frozen=True)
class Common:
  """Keys that section `model` has for every method.

  Attributes:
    norm_groups: groups of the global batch that share BatchNorm statistics; 1
      is synchronised BatchNorm.
    dtype: compute dtype of all modules.
  """

  norm_groups: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"

  def __post_init__(self):
    config_lib.require(self, "norm_groups", self.norm_groups >= 1, "1 or more")


_COMMON = tuple(field.name for field in dataclasses.fields(Common))
# Section `model`. The fields in `given` are set from `Common` and by the run.
MODEL = Choice("method", METHODS, common=Common, given=(*_COMMON, "plan"))


def build(section: ConfigDict, plan: Plan) -> Method:
  """Builds the method of config section `model`.

  Args:
    section: config section `model`.
    plan: describes the run.

  Raises:
    ConfigError: the method is unknown, does not keep to the interface, or does
      not accept the settings.
  """
  section = dict(section)
  cls = MODEL.of(section, "model")
  name = section.pop(MODEL.key)
  check_class(cls, name)
  common = {key: section.pop(key) for key in _COMMON if key in section}
  common = dataclasses.asdict(config_lib.build(Common, common, "model"))
  method = config_lib.build(cls, section, "model", **common, plan=plan)
  for teacher in method.teachers:
    left_out = getattr(method, teacher, "") is None
    if teacher not in method.networks and not left_out:
      raise config_lib.ConfigError(
        f"config.model.method={name!r} has {teacher!r} among its `teachers`;"
        f" its networks are {', '.join(map(repr, method.networks))}."
      )
  return method
