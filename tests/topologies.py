"""Slices as libtpu describes them: `python -m tests.topologies` prints them.

The output is `topologies.json`. That takes the extra `tpu`, though no TPU; the
tests need neither. `jax.make_mesh` says which process is where on the mesh of
one slice, so that the record owes nothing to `sslx.mesh`; a mesh that it
refuses has no order here.
"""

import dataclasses
import json
import os
import pathlib

PATH = pathlib.Path(__file__).with_suffix(".json")
SLICES = (
  ("v4:2x2x2", 1), ("v4:2x2x4", 1), ("v5e:2x2", 1), ("v5e:2x4", 1),
  ("v5e:4x4", 1), ("v5e:4x8", 1), ("v5e:8x8", 1), ("v5p:2x2x2", 1),
  ("v5p:2x2x4", 1), ("v5p:2x4x4", 1), ("v6e:2x4", 1), ("v6e:4x4", 1),
  ("v6e:4x8", 1), ("v6e:8x8", 1), ("v5e:4x4", 2), ("v5p:2x2x2", 2),
)  # fmt: skip


def describe(name: str, slices: int) -> dict:
  """What libtpu says of a topology.

  Returns:
    `kind`; `devices`, [x, y, z, process, slice] of each; and `order`, by number
    of devices on the model axis: the process of each device of the mesh, whose
    data axis comes first.
  """
  import jax
  from jax.experimental import topologies

  settings = {"num_slices": slices} if slices > 1 else {}
  if name.startswith("v4"):  # Two cores of a chip are one device, as on a TPU.
    settings["chip_config_name"] = "megacore"
  found = topologies.get_topology_desc(
    platform="tpu", topology_name=name, **settings
  ).devices
  order = {}
  for model in (1, 2, 4, 8) if slices == 1 else ():
    if model >= len(found):
      continue
    try:
      mesh = jax.make_mesh(
        (len(found) // model, model), ("data", "model"), devices=found
      )
    except NotImplementedError:
      continue
    order[str(model)] = [x.process_index for x in mesh.devices.flat]
  place = lambda x: [
    *x.coords, x.process_index, getattr(x, "slice_index", 0)
  ]  # fmt: skip
  return {
    "kind": found[0].device_kind,
    "devices": [place(x) for x in found],
    "order": order,
  }


def recorded() -> dict[str, dict]:
  """The same of all, from the record, by name and number of slices."""
  return json.loads(PATH.read_text())


@dataclasses.dataclass(frozen=True)
class Device:
  """All that a mesh needs to know of a device."""

  id: int
  device_kind: str
  coords: tuple[int, int, int]
  process_index: int
  slice_index: int
  platform: str = "tpu"
  core_on_chip: int = 0


def devices(description: dict) -> list[Device]:
  """Those of a description."""
  return [
    Device(i, description["kind"], (x, y, z), process, slice_)
    for i, (x, y, z, process, slice_) in enumerate(description["devices"])
  ]


if __name__ == "__main__":
  # Before JAX: it would ask for the metadata of a TPU that is not there.
  os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"}
  os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
  lines = [
    f"{json.dumps(f'{name} {n}')}: {json.dumps(describe(name, n))}"
    for name, n in SLICES
  ]
  print("{\n" + ",\n".join(lines).replace(", ", ",") + "\n}")
