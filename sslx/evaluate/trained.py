"""Protocols that train: linear classifiers, or the whole network, on labels.

Each is a config in `configs/benchmarks/`, and runs in the loop of all methods:
it resumes, is sharded, logged and stopped as any run. Its workdir is a folder
of the evaluated run's: `evaluations/<name>`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ml_collections import ConfigDict

from sslx import settings
from sslx.config import ConfigError
from sslx.config.tree import plain
from sslx.data import sources
from sslx.data.sources import Source
from sslx.weights.run import Run

# Keys of a backbone that belong to how it is trained. Those of a protocol
# replace those of the run; all others are of the run.
_TRAINING = (
  "drop_path", "drop_path_schedule", "features", "frozen_patches", "pool_norm",
)  # fmt: skip
# Keys of section `data` that are of the run.
_DATA = ("channels", "mean", "std", "exif")


@dataclasses.dataclass(frozen=True)
class Trained:
  """A protocol that trains.

  Attributes:
    version: rises with a change that moves results.
    file: its config, in `configs/benchmarks/`.
    share: the share of the training images that it takes of a set for which its
      paper publishes no list, as a TFDS slice, "1%".
  """

  version: int
  file: str
  share: str | None = None

  @property
  def spec(self) -> str:
    """The config file, as `settings.load` takes it."""
    return f"sslx:benchmarks/{self.file}.py"


PROTOCOLS = {
  "linear-moco": Trained(1, "resnet50_linear-moco-8xb32-steplr-100e_in1k"),
  "linear-simclr": Trained(1, "resnet50_linear-simclr-8xb512-coslr-90e_in1k"),
  "linear-byol": Trained(1, "resnet50_linear-byol-8xb128-coslr-80e_in1k"),
  "linear-simsiam": Trained(1, "resnet50_linear-simsiam-8xb512-coslr-90e_in1k"),
  "linear-swav": Trained(1, "resnet50_linear-swav-8xb32-coslr-100e_in1k"),
  "linear-barlow": Trained(1, "resnet50_linear-barlow-8xb32-coslr-100e_in1k"),
  "linear-vicreg": Trained(1, "resnet50_linear-vicreg-8xb32-coslr-100e_in1k"),
  "linear-mocov3-resnet": Trained(
    1, "resnet50_linear-mocov3-resnet-8xb128-coslr-90e_in1k"
  ),
  "linear-mocov3": Trained(
    1, "vit-base-p16_linear-mocov3-8xb128-coslr-90e_in1k"
  ),
  "linear-mae": Trained(1, "vit-base-p16_linear-mae-32xb512-coslr-90e_in1k"),
  "linear-dino": Trained(1, "vit-small-p16_linear-dino-8xb128-coslr-100e_in1k"),
  "linear-dino-base": Trained(
    1, "vit-base-p16_linear-dino-base-8xb128-coslr-100e_in1k"
  ),
  "linear-dino-resnet": Trained(
    1, "resnet50_linear-dino-resnet-8xb128-coslr-100e_in1k"
  ),
  "linear-dinov2": Trained(
    1, "vit-base-p16_linear-dinov2-8xb128-coslr-12500it_in1k"
  ),
  "semisup-swav-1pct": Trained(
    1, "resnet50_semisup-swav-1pct-8xb32-steplr-20e_in1pct", "1%"
  ),
  "semisup-swav-10pct": Trained(
    1, "resnet50_semisup-swav-10pct-8xb32-steplr-20e_in10pct", "10%"
  ),
  "semisup-barlow-1pct": Trained(
    1, "resnet50_semisup-barlow-1pct-8xb32-coslr-20e_in1pct", "1%"
  ),
  "semisup-vicreg-1pct": Trained(
    1, "resnet50_semisup-vicreg-1pct-8xb32-coslr-20e_in1pct", "1%"
  ),
  "semisup-vicreg-10pct": Trained(
    1, "resnet50_semisup-vicreg-10pct-8xb32-coslr-20e_in10pct", "10%"
  ),
  "ft-mae": Trained(1, "vit-base-p16_ft-mae-8xb128-bf16-coslr-100e_in1k"),
  "ft-mae-large": Trained(
    1, "vit-large-p16_ft-mae-large-8xb128-bf16-coslr-50e_in1k"
  ),
  "ft-mae-huge": Trained(
    1, "vit-huge-p14_ft-mae-huge-8xb128-bf16-coslr-50e_in1k"
  ),
  "ft-mocov3": Trained(1, "vit-base-p16_ft-mocov3-8xb128-bf16-coslr-150e_in1k"),
  # Ours, for small machines.
  "linear-quick": Trained(1, "resnet18_linear-quick-1xb256-coslr-10e_cifar10"),
  "ft-quick": Trained(1, "resnet18_ft-quick-1xb256-coslr-10e_cifar10"),
  "semisup-quick-1pct": Trained(
    1, "resnet18_semisup-quick-1pct-1xb50-coslr-40e_cifar10", "1%"
  ),
  "semisup-quick-10pct": Trained(
    1, "resnet18_semisup-quick-10pct-1xb250-coslr-15e_cifar10", "10%"
  ),
}


def source_of(protocol: Trained, source: Source) -> Source:
  """Returns the images of a protocol, given the set that the user means.

  Those of a protocol that takes a share of the labels are the set of its
  paper's list, if the set is the paper's; else a slice, unless the user names a
  split.
  """
  if not protocol.share or source.train is not None:
    return source
  listed = settings.load(protocol.spec).data.source
  if listed.startswith(f"{source.name}_"):
    return dataclasses.replace(source, name=listed)
  return dataclasses.replace(source, train=f"train[:{protocol.share}]")


def config_of(
  protocol: Trained,
  run: Run,
  source: Source,
  overrides: Iterable[tuple[str, str]] = (),
) -> ConfigDict:
  """Returns the config of a run that evaluates a network by a protocol.

  The protocol sets the method, the views, the schedule and the batch; the
  evaluated run sets the backbone, the size of its images and their
  normalisation.

  Args:
    protocol: the protocol.
    run: the network to evaluate; its weights are not used.
    source: the labelled images, as `source_of` returns them.
    overrides: (dotted key, text of the value), the last changes.

  Raises:
    ConfigError: the protocol does not fit the network, or the images have no
      labels; or see `settings.load`.
  """
  own = settings.load(protocol.spec)
  train = sources.load(source, "train")
  if train.num_classes is None:
    raise ConfigError(
      f"--data={source.name}: it has no labels, which this protocol needs."
    )
  size, backbone = run.image_size, plain(run.config.model.backbone)
  ours = own.model.backbone
  if ours.name == backbone["name"]:
    # The stored config of an older run may lack such a key.
    backbone |= {key: ours[key] for key in _TRAINING if key in ours}
  init_from = None
  if run.network != "untrained":
    init_from = {
      "path": run.workdir,
      "step": run.step,
      "what": run.network,
      "parts": ("backbone",),
    }
  centre = own.data.centre
  changes = {
    "model.backbone": {"_delete_": True, **backbone},
    "model.classifier.classes": train.num_classes,
    "data.source": source.name,
    "data.data_dir": source.data_dir,
    "data.prepare": source.prepare,
    "data.train": source.train,
    "data.test": source.test,
    **{f"data.{key}": getattr(run.data, key) for key in _DATA},
    "data.views.0.size": size,
    "data.centre.size": size,
    "data.centre.resize": round(size * centre.resize / centre.size),
    "runtime.custom_imports": run.config.runtime.get("custom_imports", ()),
    "runtime.init_from": init_from,
  }
  texts = [(key, repr(value)) for key, value in changes.items()]
  return settings.load(protocol.spec, [*texts, *overrides])
