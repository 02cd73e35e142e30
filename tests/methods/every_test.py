"""What holds for every method: devices, modes and interruptions change nothing.

`step_test.py` compares SimCLR's steps more closely.
"""

import jax
import numpy as np
import pytest

from sslx import testing
from tests import tiny


def full_queue(state):
  """As late in a run as SwAV uses its queue."""
  if "filled" not in state.aux:
    return state
  queue = np.random.default_rng(0).normal(size=state.aux["queue"].shape)
  queue /= np.linalg.norm(queue, axis=-1, keepdims=True)
  filled = np.int32(queue.shape[1])
  aux = {"queue": queue.astype(np.float32), "filled": filled}
  return state.replace(aux=aux)


@pytest.mark.slow
@pytest.mark.parametrize(
  "method",
  [
    *tiny.METHODS,
    "linear",
    "finetune",
    "mae",
    "mocov3",
    "ijepa",
    "ibot",
    "dinov2",
  ],
)
def test_a_method_does_what_every_method_must(method):
  if method in tiny.METHODS or method in ("linear", "finetune"):
    # SwAV's queue is full, and so used, from the second step on.
    queue = {"model__queue_size": tiny.BATCH} if method == "swav" else {}
    config = tiny.method_config(method, **queue)
  else:
    # With one block there is less to compile.
    config = tiny.vit_config(method, model__backbone__depth=1)
  testing.check_method(config, devices=(8,), note=lambda _: None)


@pytest.mark.parametrize("method", ["mocov2", "swav"])
def test_fsdp_gives_the_same_three_steps(monkeypatch, method):
  alone = tiny.build_method(tiny.method_config(method))
  start = full_queue(jax.device_get(alone.init_state()))
  expected = tiny.run_steps(alone, start, tiny.batches(alone, 3))
  monkeypatch.setattr("sslx.parallel.FSDP_MIN_SIZE", 64)
  config = tiny.method_config(method, runtime__parallel__rules="fsdp")
  experiment = tiny.build_method(config, 8)
  shardings = experiment.state_shardings
  assert shardings.aux["queue"].is_fully_replicated  # All of it at each step.
  parameters = jax.tree.leaves(shardings.params)
  assert not all(x.is_fully_replicated for x in parameters)
  found = tiny.run_steps(experiment, start, tiny.batches(experiment, 3))
  tiny.assert_close(found, expected, 1e-3)
