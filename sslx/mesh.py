"""The device mesh: the place of each device, for one slice or several."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from sslx.axis import DATA
from sslx.config import ConfigError

MODEL = "model"


def make(
  settings: tuple[tuple[str, int], ...], devices: Sequence[jax.Device]
) -> Mesh:
  """Makes a mesh over these devices.

  Within a slice, JAX orders the devices so that neighbours on a mesh axis are
  neighbours on the network between chips (ICI). Several slices follow one
  another on the data axis. So only sums over the data axis use the slower
  network between slices (DCN), and a model axis stays within a slice.

  Args:
    settings: axes and their sizes; if empty, all devices are on the data axis.
    devices: all of the same kind.

  Raises:
    ConfigError: the mesh needs another number of devices, or does not fit the
      slices.
  """
  axes = dict(settings) or {DATA: len(devices)}
  needed = math.prod(axes.values())
  if needed != len(devices):
    raise ConfigError(
      f"config.runtime.parallel.mesh is {settings}, of {needed} devices, but"
      f" there are {len(devices)}; the product of the sizes must be"
      f" {len(devices)}. Use () for all of them on the {DATA!r} axis."
    )
  # Devices of a single slice may lack the attribute.
  slices = collections.Counter(getattr(x, "slice_index", 0) for x in devices)
  if len(set(slices.values())) > 1:
    sizes = ", ".join(str(slices[i]) for i in sorted(slices))
    raise ConfigError(
      f"the {len(slices)} slices of this job have {sizes} devices; all need"
      " as many. Start the job on slices of one size."
    )
  if axes[DATA] % len(slices):
    raise ConfigError(
      f"config.runtime.parallel.mesh has {axes[DATA]} devices on {DATA!r}; they"
      f" do not divide evenly over {len(slices)} slices, and {MODEL!r} cannot"
      f" span slices. Use a multiple of {len(slices)}."
    )
  # If the mesh does not fit the torus, split the torus's axes. A mesh axis then
  # has fewer links, but the mesh has the sizes that the user asked for.
  split = {"allow_split_physical_axes": True}
  if len(slices) == 1:
    order = mesh_utils.create_device_mesh(
      tuple(axes.values()), devices, **split
    )
  else:
    between = dict.fromkeys(axes, 1) | {DATA: len(slices)}
    within = [size // between[name] for name, size in axes.items()]
    order = mesh_utils.create_hybrid_device_mesh(
      within, tuple(between.values()), devices, **split
    )
  return Mesh(order, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def processes(mesh: Mesh) -> np.ndarray:
  """Returns the process of each device, int[data, others]."""
  devices = np.moveaxis(mesh.devices, mesh.axis_names.index(DATA), 0)
  found = [device.process_index for device in devices.flat]
  return np.reshape(found, (len(devices), -1))
