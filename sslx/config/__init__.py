"""Configs: inheritance, references, overrides, identity, and typed settings.

A config has four sections: `model`, `data`, `schedule` and `runtime`. A file
defines it (`files`). The file may inherit from others (`merge`) and refer to
its own values (`reference`). `loading` fills in defaults, applies flags
(`overrides`), checks the values against the settings classes (`schema`), and
returns a locked ConfigDict. `python -m sslx.config` prints, compares, lints,
migrates and copies configs.
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
from sslx.config.loading import load, read
from sslx.config.overrides import override, split_overrides
from sslx.config.reference import ref
from sslx.config.schema import Choice, build, require

__all__ = [
  "Choice",
  "ConfigError",
  "build",
  "differences",
  "entry",
  "fingerprint",
  "inherit",
  "load",
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
