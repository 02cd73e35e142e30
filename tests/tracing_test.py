"""Traces: which steps, where they are written, and runs that end within."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from sslx import tracing
from sslx.config import ConfigError
from sslx.settings import Runtime
from tests import tiny


def take(span, first, last, directory, fail_at=None):
  """Steps `first + 1` to `last` of a run; what it was told."""
  notes = []

  @jax.jit
  def compiled(state, batch):
    return state + 1, {"loss": jnp.sum(batch @ batch)}

  def step(state, batch):
    if state + 1 == fail_at:
      raise RuntimeError("the device is gone")
    return compiled(state, batch)

  state = first
  with tracing.Trace(span, first, directory, notes.append) as trace:
    train_step = trace.of(step)
    for _ in range(first, last):
      state, metrics = train_step(state, jnp.ones((8, 8)))
  assert state == last
  assert set(metrics) == {"loss"}
  return notes


def traced_steps(directory, session="steps_3-5"):
  """Numbers of the steps in the trace of this process."""
  folder = directory / "plugins" / "profile" / session
  assert sorted(path.name for path in folder.iterdir()) == [
    "process_0.trace.json.gz",
    "process_0.xplane.pb",
  ]
  # Nothing is left of the folder that it was made in.
  assert [path.name for path in directory.iterdir()] == ["plugins"]
  with gzip.open(folder / "process_0.trace.json.gz") as file:
    events = json.load(file)["traceEvents"]
  return [
    int(event["args"]["step_num"])
    for event in events
    if event.get("name") == "train"
  ]


@pytest.mark.parametrize(
  ("first", "last", "expected"),
  [
    (0, 8, [3, 4, 5]),
    (2, 5, [3, 4, 5]),
    (3, 8, [4, 5]),  # Gone on with, within the span.
    (0, 4, [3, 4]),  # Ended within it.
  ],
)
def test_the_steps_of_the_span_are_traced(first, last, expected, tmp_path):
  directory = tmp_path / "profile"
  (note,) = take((3, 3), first, last, directory)
  assert traced_steps(directory) == expected
  assert str(directory) in note


@pytest.mark.parametrize(
  ("span", "first", "last"), [(None, 0, 8), ((3, 3), 0, 2), ((3, 3), 5, 8)]
)
def test_no_trace_of_other_steps(span, first, last, tmp_path):
  assert take(span, first, last, tmp_path / "profile") == []
  assert not (tmp_path / "profile").exists()


def test_an_error_within_the_span_ends_the_trace(tmp_path):
  with pytest.raises(RuntimeError, match="the device is gone"):
    take((3, 3), 0, 8, tmp_path / "a", fail_at=4)
  assert traced_steps(tmp_path / "a") == [3, 4]
  take((3, 3), 0, 8, tmp_path / "b")  # Another may start.
  assert traced_steps(tmp_path / "b") == [3, 4, 5]


@pytest.mark.parametrize("profile", [(0, 3), (3, 0)])
def test_an_impossible_span_is_refused(profile):
  with pytest.raises(ValueError, match="profile is .* each at least 1"):
    Runtime(profile=profile)


@pytest.mark.parametrize("profile", [3, (3,), (3, 1, 2)])
def test_what_is_no_span_is_refused(profile):
  message = "config.runtime.profile is .* tuple .int, int. or None"
  with pytest.raises(ConfigError, match=message):
    config = tiny.config(runtime__profile=profile)
    tiny.experiment_lib.build(config)
