"""The error of all config mistakes, and parts of its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
  """A config that cannot run; the message names the key, value and fix."""


def nearest(word: str, known: Iterable[str]) -> str:
  """Returns ` Did you mean 'x'?`, or "" if no known word is similar."""
  near = difflib.get_close_matches(word, list(known), n=1)
  return f" Did you mean {near[0]!r}?" if near else ""


def unknown_key(full: str, known: Iterable[str]) -> str:
  """The message for an unknown key, with the nearest known key as a hint."""
  known = sorted(known)
  hint = nearest(full.rpartition(".")[2], known)
  return f"config.{full} does not exist.{hint} Keys here: {', '.join(known)}."
