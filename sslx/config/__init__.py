"""Configs: inheritance, references, overrides, identity, and typed settings.

A config has four sections: `model`, `data`, `schedule` and `runtime`. It is
made by a file (`files`) that may inherit (`merge`) from others and refer to its
own values (`reference`). `loading` fills it in, changes it by flags
(`overrides`), checks it against the settings classes (`schema`), and hands it
over as a locked ConfigDict. `python -m sslx.config` prints, compares, lints
and migrates.
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
