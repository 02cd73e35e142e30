"""Arguments of config files: `configs/simclr.py:imagenet,width=0.5`."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

from sslx.config.errors import ConfigError, nearest
from sslx.config.overrides import parse
from sslx.config.values import coerce


def split_spec(spec: str) -> tuple[str, str]:
  """Splits a spec into file and argument.

  The colon of a drive letter stays part of the file.

  Raises:
    ConfigError: the file is not a .py, .json or .yaml file.
  """
  match = re.fullmatch(r"(.*?\.(?:py|json|ya?ml))(?::(.*))?", spec)
  if not match:
    raise ConfigError(
      f"config file {spec!r}: it must be a .py, .json or .yaml file, with an"
      " argument after a colon if it takes one."
    )
  return match[1], match[2] or ""


def call(get_config: Callable[..., Any], argument: str, file: str) -> Any:
  """Calls `get_config` with an argument from the command line.

  Args:
    get_config: function of a config file. Its signature gives the names, types
      and defaults of its parameters.
    argument: comma-separated values: first in the order of the signature, then
      as `name=value`. May be empty.
    file: name of the config file, for error messages.

  Raises:
    ConfigError: there is no such parameter, or the value has the wrong type.
  """
  parameters = inspect.signature(get_config).parameters
  hints = typing.get_type_hints(get_config)
  # Split at commas, except inside brackets.
  parts = re.findall(r"(?:[^,(\[{]|[(\[{][^)\]}]*[)\]}])+", argument)
  if parts and not parameters:
    raise ConfigError(f"{file} takes no argument, but was given {argument!r}.")
  takes = ", ".join(str(p) for p in parameters.values())
  given = {}
  for name, part in zip([*parameters, *[""] * len(parts)], parts, strict=False):
    key, equals, text = part.partition("=")
    if not equals:
      key, text = name, part
    if key not in parameters or key in given:
      raise ConfigError(
        f"{file} has no place for the argument {part!r}."
        f"{nearest(key, parameters)} It takes {takes}."
      )
    hint = hints.get(key, Any)
    value = text if hint is str else parse(text)
    try:
      given[key] = coerce(hint, value, key)
    except ConfigError as error:
      reason = str(error).removeprefix("config.")
      raise ConfigError(f"{file}: argument {reason}") from None
  return get_config(**given)
