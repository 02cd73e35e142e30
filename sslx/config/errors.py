"""What a config's user is told when something is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
  """A config that cannot run; the message names the key, value and fix."""


def nearest(word: str, known: Iterable[str]) -> str:
  """` Did you mean 'x'?`, or nothing if no known word is like this one."""
  near = difflib.get_close_matches(word, list(known), n=1)
  return f" Did you mean {near[0]!r}?" if near else ""


def unknown_key(full: str, known: Iterable[str]) -> str:
  """The message for a key that does not exist, with the nearest that does."""
  known = sorted(known)
  hint = nearest(full.rpartition(".")[2], known)
  return f"config.{full} does not exist.{hint} Keys here: {', '.join(known)}."
