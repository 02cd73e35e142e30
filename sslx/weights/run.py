"""Opens a trained run: its config, its method and its weights."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import jax
from etils import epath
from ml_collections import ConfigDict

from sslx import config as config_lib
from sslx import methods, past
from sslx.checkpoint import Weights
from sslx.config.loading import custom_imports
from sslx.config.tree import as_config, plain
from sslx.data import pipeline
from sslx.data import views as views_lib
from sslx.step import example_batch, method_rng


@dataclasses.dataclass(frozen=True)
class Run:
  """One network of a run's checkpoint.

  Attributes:
    workdir: workdir of the run.
    config: config of the run.
    method: the method that the config describes.
    data: section `data` of the config.
    step: step of the checkpoint; 0 of a network that is not trained.
    network: "student" or "teacher"; "untrained" is the student as drawn.
    params: parameters of the network by part, on the host; always contains
      "backbone".
    model_state: BatchNorm statistics by part, on the host.
  """

  workdir: str
  config: ConfigDict
  method: methods.Method
  data: pipeline.Data
  step: int
  network: Literal["student", "teacher", "untrained"]
  params: dict[str, Any]
  model_state: dict[str, Any]

  @property
  def backbone(self) -> Any:
    """The backbone's Linen module."""
    return self.method.backbone

  @property
  def variables(self) -> dict[str, Any]:
    """Variables of the backbone."""
    return {
      "params": self.params["backbone"],
      "batch_stats": self.model_state["backbone"],
    }

  @property
  def image_size(self) -> int:
    """Side of the images that the network was trained on."""
    size = getattr(self.backbone, "image_size", None)
    return size or self.data.views[0].size


def read_config(workdir: str, key: str = "--workdir") -> ConfigDict:
  """Reads the config of a run, and imports its `custom_imports`.

  Args:
    workdir: workdir of the run.
    key: name of the flag or config key that gave it, for messages.

  Raises:
    ConfigError: it is not the workdir of a run, or an import failed.
  """
  path = epath.Path(workdir) / "config.json"
  if not path.exists():
    raise config_lib.ConfigError(
      f"{key} is {str(workdir)!r}: there is no {path}. Give the workdir of a"
      " run."
    )
  stored = past.config(json.loads(path.read_text()))
  config = as_config(plain(stored), final=True)
  custom_imports(config.runtime.get("custom_imports", ()))
  return config


def open_run(
  workdir: str,
  step: int | None = None,
  what: Literal["student", "teacher"] | None = None,
  untrained: bool = False,
  read: bool = True,
) -> Run:
  """Loads one network of a run, without its data; all processes call it.

  Args:
    workdir: workdir of the run.
    step: step of the checkpoint; by default the newest.
    what: which network; by default the one that the method publishes.
    untrained: whether to draw the weights that the run started from instead.
    read: whether to read or draw the weights; if not, there are none in the
      result, but the step and the network are checked.

  Raises:
    ConfigError: it is not a run, or its method has no such network.
    CheckpointError: there is no such checkpoint, or it cannot be read.
  """
  config = read_config(workdir)
  data = config_lib.build(pipeline.Data, config.data, "data")
  method = methods.build(config.model, methods.Plan(data.batch_size, 1, 1))
  slots = method.slots(views_lib.each(data.views))
  batch = example_batch(data.views, slots, data.channels)
  key = method_rng(jax.random.key(config.runtime.seed))
  nothing = {"params": {}, "model_state": {}}
  if untrained:
    drawn = nothing
    if read:
      params, model_state, _ = jax.device_get(jax.jit(method.init)(key, batch))
      drawn = {"params": params, "model_state": model_state}
    return Run(str(workdir), config, method, data, 0, "untrained", **drawn)
  params, model_state, aux = jax.eval_shape(method.init, key, batch)
  wanted = {"params": params, "model_state": model_state}
  network = what or method.evaluated
  if network == "teacher":
    if not method.teachers:
      raise config_lib.ConfigError(
        f"--what=teacher: {type(method).__name__} has one network only; leave"
        " it out."
      )
    wanted = {"aux": {k: aux[k] for k in wanted}}
  # A copy for each process, on the first of its devices.
  firsts = {x.process_index: x for x in reversed(jax.devices())}
  mesh = jax.sharding.Mesh(list(firsts.values()), "process")
  here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  wanted = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), wanted
  )
  with Weights(workdir, step, "--workdir") as weights:
    found = jax.device_get(weights.load(wanted)) if read else nothing
    found = found.get("aux", found)
    return Run(
      str(workdir), config, method, data, weights.step, network, **found
    )
