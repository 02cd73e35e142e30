"""A step gives the same on any number of devices, in both modes."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from sslx import experiment as experiment_lib
from sslx.axis import Axis
from sslx.data.views import Crop, Slot
from sslx.parallel import Parallel, Partitioner
from sslx.step import TrainStep
from tests import tiny


def three_steps(config, devices, state=None):
  """Start, metrics of each step and end; from `state` if there is one."""
  experiment = experiment_lib.build(config, jax.devices()[:devices])
  start = jax.device_get(experiment.init_state() if state is None else state)
  batches = [experiment.partitioner.put(tiny.batch(i)) for i in range(3)]
  return start, *tiny.run_steps(experiment, start, batches)


def smooth(**changes):
  """SimCLR with no ReLU, across whose zero rounding could move a value."""
  config = tiny.config(**changes)
  with config.unlocked():
    config.model.backbone = ConfigDict({"name": "convs"})
  return config


@pytest.fixture(scope="module")
def reference():
  """Three steps on one device in pjit mode, by number of BatchNorm groups."""
  return {
    groups: three_steps(smooth(model__norm_groups=groups), 1)
    for groups in (1, 8)
  }


@pytest.fixture(scope="module")
def resnet():
  """The same of a ResNet, which has parameters large enough to be sharded."""
  return three_steps(tiny.config(), 1)


@pytest.mark.parametrize(
  ("mode", "devices", "groups"),
  [("pjit", 8, 1), ("pmap", 4, 1), ("pjit", 8, 8), ("pmap", 2, 8)],
)
def test_three_steps_do_not_depend_on_devices_or_mode(
  reference, mode, devices, groups
):
  config = smooth(model__norm_groups=groups, runtime__parallel__mode=mode)
  start, old_metrics, old_state = reference[groups]
  _, metrics, state = three_steps(config, devices, start)
  tiny.assert_close(metrics[0], old_metrics[0], 1e-4)
  tiny.assert_close(metrics, old_metrics, 1e-3)
  tiny.assert_close(state, old_state, 1e-3)


@pytest.mark.slow
def test_steps_of_a_resnet_do_not_depend_on_devices_or_mode(resnet):
  """In pmap mode; in pjit mode they are those of `fsdp`."""
  config = tiny.config(runtime__parallel__mode="pmap")
  start, old_metrics, _ = resnet
  _, metrics, _ = three_steps(config, 8, start)
  # The first step sees the same parameters; later ones what rounding made of
  # those near a ReLU's zero.
  tiny.assert_close(metrics[0], old_metrics[0], 1e-4)
  tiny.assert_close(metrics, old_metrics, 5e-3)


def test_initial_state_does_not_depend_on_devices_or_rules(resnet):
  config = tiny.config(runtime__parallel__rules="fsdp")
  state = experiment_lib.build(config).init_state()
  sharded = [
    x for x in jax.tree.leaves(state) if not x.sharding.is_fully_replicated
  ]
  assert sharded, "no parameter is large enough to be sharded"
  jax.tree.map(np.testing.assert_array_equal, state, resnet[0])


def test_fsdp_gives_the_same_three_steps(resnet):
  config = tiny.config(runtime__parallel__rules="fsdp")
  start, old_metrics, _ = resnet
  _, metrics, _ = three_steps(config, 8, start)
  tiny.assert_close(metrics[0], old_metrics[0], 1e-4)
  tiny.assert_close(metrics, old_metrics, 5e-3)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_shuffled_view_is_the_same_view_in_another_row(devices):
  view = Crop(8, count=2, jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2)
  slots = (Slot(1), Slot(1, shuffled=True))
  step = TrainStep(
    None, None, None, None, (view,), slots, (0.5,) * 3, (0.25,) * 3
  )
  batch = tiny.batch(0, size=12)
  place = np.random.default_rng(0).permutation(tiny.BATCH).astype(np.int32)
  batch |= {"place": place, "shuffled_image": batch["image"][place]}
  mesh = Partitioner.create(Parallel(), jax.devices()[:devices]).mesh
  preprocess = jax.shard_map(
    lambda batch: step.preprocess(batch, jax.random.key(0), Axis("data")),
    mesh=mesh,
    in_specs=P("data"),
    out_specs=P("data"),
  )
  straight, shuffled = jax.jit(preprocess)(batch)
  np.testing.assert_allclose(shuffled, straight[place], atol=1e-6)
  assert abs(straight - straight[place]).max() > 0.1
