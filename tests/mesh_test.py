"""Meshes over slices as they are, and the rows that each process loads."""

import dataclasses
import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest

from sslx import mesh
from sslx.config import ConfigError
from sslx.parallel import Parallel, Partitioner
from tests import tiny, topologies

RECORDED = topologies.recorded()
ONE_SLICE = [name for name in RECORDED if name.endswith(" 1")]
SEVERAL = [name for name in RECORDED if name not in ONE_SLICE]


def partitioner(name, model=1):
  devices = topologies.devices(RECORDED[name])
  axes = (("data", len(devices) // model), ("model", model))
  settings = Parallel(mesh=axes if model > 1 else ())
  return Partitioner.create(settings, devices)


@pytest.mark.parametrize("name", ONE_SLICE)
def test_a_slice_is_laid_out_as_jax_does_it(name):
  for model, order in RECORDED[name]["order"].items():
    found = mesh.processes(partitioner(name, int(model)).mesh)
    assert found.ravel().tolist() == order, model


@pytest.mark.parametrize("name", RECORDED)
def test_each_row_is_loaded_where_a_device_has_it(name, monkeypatch):
  last = max(place[3] for place in RECORDED[name]["devices"])
  for model in (1, 2, 4):
    if model == len(RECORDED[name]["devices"]):
      continue
    one = partitioner(name, model)
    size = 3 * one.num_devices
    for process in range(last + 1):
      monkeypatch.setattr(jax, "process_index", lambda p=process: p)
      # Place by place, on a partitioner that has nothing kept.
      rows = dataclasses.replace(one).local_rows(size)
      places = enumerate(one.mesh.devices.reshape(one.num_devices, model))
      expected = [
        row
        for place, devices in places
        if process in {device.process_index for device in devices}
        for row in range(3 * place, 3 * place + 3)
      ]
      assert rows.tolist() == expected, (model, process)
      assert len(rows) * (last + 1) >= size


def test_a_process_of_a_slice_loads_more_than_one_run(monkeypatch):
  """The rows that once ended the run on any v5e:4x4."""
  one = partitioner("v5e:4x4 1")
  runs = [*range(32), *range(96, 112), *range(240, 256)]
  assert one.local_rows(256).tolist() == runs


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("model", [1, 2, 4])
def test_slices_follow_one_another_on_the_data_axis(name, model):
  """Each as it would be alone; and the model axis stays in its slice."""
  one = partitioner(name, model).mesh
  slices = np.array([x.slice_index for x in one.devices.flat])
  assert (np.diff(slices) >= 0).all() and slices[-1] == 1
  alone = np.array(RECORDED[f"{name[:-1]}1"]["order"][str(model)])
  both = np.concatenate([alone, alone + alone.max() + 1])
  np.testing.assert_array_equal(mesh.processes(one).ravel(), both)


def test_the_order_of_the_axes_is_that_of_the_config():
  devices = topologies.devices(RECORDED["v5p:2x2x2 2"])
  one = mesh.make((("model", 2), ("data", 8)), devices)
  assert one.axis_names == ("model", "data") and one.devices.shape == (2, 8)
  assert mesh.processes(one).shape == (8, 2)
  for pair in one.devices.T:
    assert len({device.slice_index for device in pair}) == 1


@pytest.mark.parametrize(
  ("name", "axes", "count", "message"),
  [
    (
      "v5e:4x4 2",
      (("data", 1), ("model", 32)),
      32,
      "1 devices on 'data'; they do not divide evenly over 2 slices, .*"
      "Use a multiple of 2",
    ),
    ("v5e:4x4 2", (), 28, "the 2 slices of this job have 16, 12 devices"),
    (
      "v5e:4x4 2",
      (("data", 8), ("model", 2)),
      32,
      "of 16 devices, but there are 32",
    ),
  ],
)
def test_a_mesh_that_does_not_fit_the_slices_is_refused(
  name, axes, count, message
):
  devices = topologies.devices(RECORDED[name])[:count]
  with pytest.raises(ConfigError, match=message) as error:
    mesh.make(axes, devices)
  assert "\n" not in str(error.value)


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
def test_the_record_is_what_libtpu_says():
  printed = subprocess.run(
    [sys.executable, "-m", "tests.topologies"],
    cwd=tiny.ROOT,
    env=tiny.environment(),
    capture_output=True,
    text=True,
    check=True,
  )
  assert printed.stdout == topologies.PATH.read_text()
