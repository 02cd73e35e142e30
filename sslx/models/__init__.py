"""Networks: the only folder that knows of Flax.

Methods build them here and use them through `init` and `apply` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslx import config
from sslx.models import resnet

BACKBONES = {"resnet": resnet.ResNet}


def backbone(
  section: Mapping[str, Any], path: str = "model.backbone", **given: Any
) -> Any:
  """Builds the backbone that a config section describes.

  Args:
    section: its `name`, a key of `BACKBONES`, and fields of that module.
    path: the section's dotted place in the config, for error messages.
    **given: fields of the module that do not come from this section.

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
  return config.build(BACKBONES[name], rest, path, **given)
