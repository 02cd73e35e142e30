"""Inheritance's merge, against a reference that was written apart from it."""

import copy

import hypothesis
import pytest
from hypothesis import strategies as st

from sslx.config import ConfigError
from sslx.config.merge import merge
from sslx.config.tree import as_config, plain

KEYS = st.sampled_from(["a", "b", "c"])
SCALARS = st.none() | st.booleans() | st.integers() | st.sampled_from("xyz")


def trees(delete: bool):
  def group(children):
    found = st.dictionaries(KEYS, children, max_size=3)
    if not delete:
      return found
    return st.builds(
      lambda d, flag: d | {"_delete_": True} if flag else d,
      found,
      st.booleans(),
    )

  return st.dictionaries(
    KEYS,
    st.recursive(
      SCALARS,
      lambda child: group(child) | st.lists(child, max_size=2),
      max_leaves=12,
    ),
    max_size=3,
  )


class Refused(Exception):
  pass


def kind(value):
  if value is None:
    return "nothing"
  return "group" if isinstance(value, dict) else "value"


def clean(value):
  """A value that replaces: nothing in it may want to delete."""
  if isinstance(value, dict):
    if "_delete_" in value:
      raise Refused
    return {k: clean(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(clean(v) for v in value)
  return value


def reference(base, changes):
  """In place on a deep copy, one case after the other, as the rules read."""
  result = copy.deepcopy(base)
  for key in changes:
    new = copy.deepcopy(changes[key])
    if kind(new) == "group" and "_delete_" in new and key in result:
      del new["_delete_"]
      result[key] = clean(new)
      continue
    if key not in result:
      result[key] = clean(new)
      continue
    match kind(result[key]), kind(new):
      case "group", "group":
        result[key] = reference(result[key], new)
      case ("group", "value") | ("value", "group"):
        raise Refused
      case _:
        result[key] = clean(new)
  return result


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(base=trees(delete=False), changes=trees(delete=True))
def test_merge_is_the_reference(base, changes):
  base = reference({}, base)
  before = copy.deepcopy(base)
  try:
    expected = reference(base, changes)
  except Refused:
    with pytest.raises(ConfigError):
      merge(base, plain(changes))
  else:
    found = merge(base, plain(changes))
    assert found == expected
    assert repr(found) == repr(expected)  # Order, and True is not 1.
  assert base == before


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(base=trees(delete=False), changes=trees(delete=False))
def test_changes_made_twice_are_made_once(base, changes):
  base, changes = reference({}, base), reference({}, changes)
  assert merge(base, {}) == merge({}, base) == base
  try:
    once = merge(base, changes)
  except ConfigError:
    hypothesis.reject()
  assert merge(once, changes) == once


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(tree=trees(delete=False))
def test_a_config_dict_holds_the_tree(tree):
  tree = reference({}, tree)
  for final in (False, True):
    config = as_config(tree, final=final)
    assert repr(plain(config)) == repr(tree)
    assert config.is_locked == final


@pytest.mark.parametrize(
  ("base", "changes", "message"),
  [
    ({"a": {"b": 1}}, {"a": 3}, r"config\.a: the value 3 .* group .* \(b\)"),
    ({"a": {"b": 1}}, {"a": {"b": {"c": 1}}}, r"a\.b: .* _delete_=True to the"),
    ({}, {"a": {"_delete_": True}}, r"config\.a has _delete_, .* nothing inh"),
    ({"a": 1}, {"_delete_": True}, r"config\.<top> has _delete_"),
    ({"a": 1}, {"a": ({"_delete_": True},)}, r"config\.a\.0 has _delete_"),
    (
      {"a": {"b": {}}},
      {"a": {"_delete_": True, "b": {"_delete_": True}}},
      r"config\.a\.b has _delete_",
    ),
    ({"a": {}}, {"a": {"_delete_": False}}, r"a\._delete_ is False; .* True"),
  ],
)
def test_merge_refuses(base, changes, message):
  with pytest.raises(ConfigError, match=message):
    merge(base, changes)


def test_delete_replaces_a_value_too():
  assert merge({"a": 1}, {"a": {"_delete_": True, "b": 2}}) == {"a": {"b": 2}}


def test_none_and_a_group_replace_each_other():
  assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}
  assert merge({"a": None}, {"a": {"b": 1}}) == {"a": {"b": 1}}
