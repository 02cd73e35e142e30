"""Configs: inheritance, references, overrides, identity, and typed settings.

A config has four sections: `model`, `data`, `schedule` and `runtime`. A file
defines it (`files`). The file may inherit from others (`merge`) and refer to
its own values (`reference`). `loading` fills in defaults and applies flags
(`overrides`). Settings classes define the keys (`schema`) and their values
(`values`). `sslx.settings` names these classes, and its `load` returns the
config of a run. The command `python -m sslx.config` prints, compares, lints,
migrates and copies configs. It alone imports modules above this package.
"""

from sslx.config.entry import entry
from sslx.config.errors import ConfigError, unknown_key
from sslx.config.files import inherit
from sslx.config.identity import (
  differences,
  fingerprint,
  to_json,
  to_python,
  to_yaml,
)
from sslx.config.loading import read
from sslx.config.overrides import override, split_overrides
from sslx.config.reference import ref
from sslx.config.schema import Choice
from sslx.config.values import build, require

__all__ = [
  "Choice",
  "ConfigError",
  "build",
  "differences",
  "entry",
  "fingerprint",
  "inherit",
  "override",
  "read",
  "ref",
  "require",
  "split_overrides",
  "to_json",
  "to_python",
  "to_yaml",
  "unknown_key",
]
