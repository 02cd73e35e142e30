"""What holds for every method: devices, modes and interruptions change nothing.

`step_test.py` has SimCLR, with a ResNet, and its views cut on the device.
"""

import contextlib

import jax
import numpy as np
import pytest

from sslx.checkpoint import Checkpoint, Checkpoints
from tests import tiny

METHODS = "mocov2", "swav", "relative_loc"


def config(method, **changes):
  return tiny.method_config(method, **changes)


def full_queue(state):
  """As late in a run as SwAV uses its queue."""
  if "filled" not in state.aux:
    return state
  queue = np.random.default_rng(0).normal(size=state.aux["queue"].shape)
  queue /= np.linalg.norm(queue, axis=-1, keepdims=True)
  filled = np.int32(queue.shape[1])
  aux = {"queue": queue.astype(np.float32), "filled": filled}
  return state.replace(aux=aux)


@pytest.fixture(scope="module")
def reference():
  """Start, and three steps on one device in pjit mode, by method."""
  found = {}

  def get(method):
    if method not in found:
      experiment = tiny.build_method(config(method))
      start = full_queue(jax.device_get(experiment.init_state()))
      batches = tiny.batches(experiment, 3)
      found[method] = start, *tiny.run_steps(experiment, start, batches)
    return found[method]

  return get


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
  ("mode", "devices"),
  [("pjit", 2), ("pjit", 8), ("pmap", 1), ("pmap", 4)],
)
def test_three_steps_do_not_depend_on_devices_or_mode(
  reference, devices, mode, method
):
  changed = config(method, runtime__parallel__mode=mode)
  experiment = tiny.build_method(changed, devices)
  start, old_metrics, old_state = reference(method)
  batches = tiny.batches(experiment, 3)
  metrics, state = tiny.run_steps(experiment, start, batches)
  tiny.assert_close(metrics[0], old_metrics[0], 1e-4)
  tiny.assert_close(metrics, old_metrics, 1e-3)
  tiny.assert_close(state, old_state, 1e-3)


@pytest.mark.parametrize("method", ["mocov2", "swav"])
def test_fsdp_gives_the_same_three_steps(reference, monkeypatch, method):
  monkeypatch.setattr("sslx.parallel.FSDP_MIN_SIZE", 64)
  changed = config(method, runtime__parallel__rules="fsdp")
  experiment = tiny.build_method(changed, 8)
  shardings = experiment.state_shardings
  assert shardings.aux["queue"].is_fully_replicated  # All of it at each step.
  parameters = jax.tree.leaves(shardings.params)
  assert not all(x.is_fully_replicated for x in parameters)
  start, old_metrics, old_state = reference(method)
  batches = tiny.batches(experiment, 3)
  metrics, state = tiny.run_steps(experiment, start, batches)
  tiny.assert_close(metrics, old_metrics, 1e-3)
  tiny.assert_close(state, old_state, 1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_resumed_from_a_checkpoint_is_bitwise_the_same(method, tmp_path):
  """After two steps of five: SwAV's queue of three batches is not yet full."""
  queue = {"model__queue_size": 3 * tiny.BATCH} if method == "swav" else {}
  experiment = tiny.build_method(config(method, **queue))
  start = jax.device_get(experiment.init_state())
  batches = tiny.batches(experiment, 5)
  step = tiny.compile_step(experiment, batches[0])
  old_metrics, old_state = tiny.run_steps(experiment, start, batches, step)

  state = jax.device_put(start, experiment.state_shardings)
  saved = Checkpoints(tmp_path, Checkpoint(), steps_per_epoch=1)
  loader = experiment.batches()
  with contextlib.closing(saved), contextlib.closing(loader):
    for _ in range(2):
      state, _ = step(state, next(loader))
    if method == "swav":
      assert state.aux["filled"] == 2 * tiny.BATCH
    saved.save(2, state, loader.state)
    saved.wait()
    state, data = saved.restore(experiment.abstract_state)
  rest = tiny.batches(experiment, 3, data["next_index"])
  metrics, state = tiny.run_steps(experiment, state, rest, step)
  jax.tree.map(np.testing.assert_array_equal, metrics, old_metrics[2:])
  jax.tree.map(np.testing.assert_array_equal, state, old_state)
