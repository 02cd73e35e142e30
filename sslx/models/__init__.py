"""Networks: the only folder that knows of Flax.

Methods build them here and use them through `init` and `apply` alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sslx import config
from sslx.models import resnet, vit

BACKBONES = {"resnet": resnet.ResNet, "vit": vit.ViT}


def backbone(
  section: Mapping[str, Any], path: str = "model.backbone", **given: Any
) -> Any:
  """Builds the backbone that a config section describes.

  Args:
    section: its `name`, a key of `BACKBONES`, and fields of that module.
    path: the section's dotted place in the config, for error messages.
    **given: fields that do not come from this section; a module without such
      a field, as a ViT is without BatchNorm, is not given it.

  Returns:
    A Linen module, called as `module(images, train=..., axis=...)`.

  Raises:
    config.ConfigError: the name is missing or unknown, or see `config.build`.
  """
  rest = dict(section)
  name = rest.pop("name", None)
  if name not in BACKBONES:
    raise config.ConfigError(
      f"config.{path}.name is {name!r}; it must be one of"
      f" {', '.join(map(repr, BACKBONES))}."
    )
  module = BACKBONES[name]
  known = {field.name for field in dataclasses.fields(module)}
  given = {key: value for key, value in given.items() if key in known}
  return config.build(module, rest, path, **given)
