"""A step gives the same on any number of devices, in both modes."""

import jax
import numpy as np
import pytest

from sslx import parallel, train
from tests import tiny


def three_steps(config, devices):
  experiment = train.build(config, jax.devices()[:devices])
  step, state = experiment.compiled_step(), experiment.init_state()
  losses = []
  for i in range(3):
    state, metrics = step(state, experiment.partitioner.put(tiny.batch(i)))
    losses.append(parallel.to_host(metrics))
  return parallel.to_host(state), losses


@pytest.fixture(scope="module")
def reference():
  """Three steps on one device in pjit mode, by number of BatchNorm groups."""
  return {
      groups: three_steps(tiny.config(model__norm_groups=groups), 1)
      for groups in (1, 8)
  }


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("mode", ["pjit", "pmap"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_three_steps_do_not_depend_on_devices_or_mode(
    reference, devices, mode, groups
):
  config = tiny.config(
      model__norm_groups=groups, runtime__parallel__mode=mode
  )
  state, metrics = three_steps(config, devices)
  # The momentum in the optimiser's state is made of the gradients.
  jax.tree.map_with_path(
      lambda path, new, old: np.testing.assert_allclose(
          new, old, rtol=1e-3, atol=1e-4, err_msg=jax.tree_util.keystr(path)
      ),
      (metrics, state),
      (reference[groups][1], reference[groups][0]),
  )
