"""Typed settings: what `build` takes and what it refuses."""

import dataclasses
from typing import Literal

import pytest

from sslx import config as config_lib
from sslx.config import ConfigError, schema


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Crop:
  size: int
  filter: str = "linear"


@dataclasses.dataclass(frozen=True)
class Patches:
  cells: int = 9


KINDS = {"crop": Crop, "patches": Patches, "grid": Patches}
VIEW = config_lib.Choice("kind", KINDS, default="crop")


@dataclasses.dataclass(frozen=True)
class Settings:
  count: int
  kind: Literal["a", "b"] = "a"
  rate: float = 1.0
  name: str = "x"
  pair: tuple[float, float] = (0.0, 1.0)
  limit: float | None = None
  inner: Inner | None = None
  views: tuple[VIEW, ...] = ()

  def __post_init__(self):
    if self.count < 0:
      raise ValueError(f"count is {self.count}; it must not be negative.")


def test_build_converts_what_loses_nothing():
  built = config_lib.build(
    Settings,
    {"count": 3.0, "rate": 2, "pair": [1, 2], "inner": {"rate": 1}},
    "s",
  )
  assert built == Settings(3, rate=2.0, pair=(1.0, 2.0), inner=Inner(1.0))
  assert isinstance(built.count, int)
  assert isinstance(built.inner.rate, float)


def test_a_choice_is_made_by_its_key_or_its_default():
  views = [{"size": 4}, {"kind": "grid"}, {"kind": "crop", "size": 2}]
  built = config_lib.build(Settings, {"count": 1, "views": views}, "s")
  assert built.views == (Crop(4), Patches(), Crop(2))
  filled = schema.filled(tuple[VIEW, ...], tuple(views))
  assert filled == (
    {"kind": "crop", "size": 4, "filter": "linear"},
    {"kind": "grid", "cells": 9},
    {"kind": "crop", "size": 2, "filter": "linear"},
  )


@pytest.mark.parametrize(
  ("section", "message"),
  [
    ({"count": 1, "rte": 2}, r"s\.rte does not exist\. Did you mean 'rate'"),
    ({}, r"s\.count is missing; it must be int"),
    ({"count": 1.5}, r"s\.count is 1\.5 \(float\); it must be int"),
    ({"count": True}, r"s\.count is True \(bool\)"),
    ({"count": 1, "kind": "c"}, r"s\.kind is 'c' .* one of 'a', 'b'"),
    ({"count": 1, "pair": (1,)}, r"s\.pair is \(1,\) .* a tuple"),
    ({"count": 1, "limit": "no"}, r"s\.limit is 'no' .*float or None"),
    ({"count": 1, "inner": {"rat": 1}}, r"s\.inner\.rat does not exist"),
    ({"count": -1}, r"s\.count is -1; it must not be negative"),
    (
      {"count": 1, "views": [{"kind": "patch"}]},
      r"views\.0\.kind is 'patch'; it must be one of 'crop', 'patches', 'grid'"
      r"\. Did you mean 'patches'",
    ),
    ({"count": 1, "views": [{"sise": 1}]}, r"views\.0\.sise .*'size'"),
    (
      {"count": 1, "views": [{"kind": "grid", "size": 1}]},
      r"views\.0\.size does not exist.*Keys here: cells, kind",
    ),
  ],
)
def test_build_refuses_with_key_value_and_what_is_accepted(section, message):
  with pytest.raises(ConfigError, match=message):
    config_lib.build(Settings, section, "s")


def test_a_choice_without_a_default_asks_for_its_key():
  choice = config_lib.Choice("kind", KINDS)
  holder = dataclasses.make_dataclass("Holder", [("it", choice)])
  with pytest.raises(
    ConfigError, match=r"h\.it\.kind is missing; .*'crop', 'patches', 'grid'"
  ):
    config_lib.build(holder, {"it": {}}, "h")
