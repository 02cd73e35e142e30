"""The methods, by the name that a config's `model.method` gives."""

from __future__ import annotations

from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx.methods.base import Method, Plan
from sslx.methods.mae import MAE
from sslx.methods.moco import MoCo
from sslx.methods.mocov3 import MoCoV3
from sslx.methods.relative_loc import RelativeLoc
from sslx.methods.simclr import SimCLR
from sslx.methods.swav import SwAV

METHODS = {
  "simclr": SimCLR,
  "mocov2": MoCo,
  "swav": SwAV,
  "relative_loc": RelativeLoc,
  "mocov3": MoCoV3,
  "mae": MAE,
}


def build(section: ConfigDict, plan: Plan) -> Method:
  """The method of config section `model`, for the run that `plan` is of.

  `norm_groups` (1 if a method without BatchNorm has no such key) and `dtype`
  hold for every module of the method.

  Raises:
    ConfigError: an unknown method, or settings that it does not accept.
  """
  section = dict(section)
  method = section.pop("method", None)
  if method not in METHODS:
    raise config_lib.ConfigError(
      f"config.model.method is {method!r}; it must be one of"
      f" {', '.join(map(repr, METHODS))}."
    )
  shared = {"norm_groups": section.pop("norm_groups", 1)}
  shared["dtype"] = section.pop("dtype")
  return METHODS[method].build(section, plan, **shared)
