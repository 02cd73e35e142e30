"""Finds the backbone in published checkpoints.

A checkpoint holds tensors in groups (`state_dict`, `teacher`). A prefix of each
name tells to which network the tensor belongs. Each layout says where the
student and the teacher are, and which tensors are not part of a backbone:
projectors, decoders, queues, classifiers. `load` refuses any other tensor that
the backbone does not have.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sslx.config import ConfigError
from sslx.weights import foreign
from sslx.weights.files import File

Network = Literal["student", "teacher"]

# Heads of MoCo v3's and solo-learn's ViTs, by width. Most other ViTs have heads
# 64 wide, with the same shapes of tensors.
_MOCOV3_HEADS = {192: 12, 384: 12, 768: 12, 1024: 16}


@dataclasses.dataclass(frozen=True)
class Layout:
  """The layout of a kind of checkpoint.

  Attributes:
    name: name of the layout, for messages.
    sign: pattern of a tensor name that shows this layout, unless an earlier
      layout applies.
    student: (group, prefix) of the trained network, or None if absent. Group ""
      is the top level of the file.
    teacher: (group, prefix) of the averaged network, or None if absent.
    published: the network that the paper's code evaluates.
    others: pattern of names, after the prefix, of tensors that are not part of
      a backbone.
    heads: number of attention heads by width, if heads are not 64 wide.
  """

  name: str
  sign: str
  student: tuple[str, str] | None
  teacher: tuple[str, str] | None = None
  published: Network = "student"
  others: str = r"(fc|head|heads)\."
  heads: Mapping[int, int] | None = None


# Tried in order. `module.` has already been removed from the names.
LAYOUTS = (
  Layout(
    "MoCo v3",
    r"^base_encoder\.",
    student=("state_dict", "base_encoder."),
    teacher=("state_dict", "momentum_encoder."),
    heads=_MOCOV3_HEADS,
  ),
  Layout(
    "MoCo v1 or v2",
    r"^encoder_q\.",
    student=("state_dict", "encoder_q."),
    teacher=("state_dict", "encoder_k."),
  ),
  Layout("SimSiam", r"^encoder\.conv1\.", student=("state_dict", "encoder.")),
  Layout(
    "DINO, iBOT or DINOv2 in training",
    r"^backbone\.",
    student=("student", "backbone."),
    teacher=("teacher", "backbone."),
    published="teacher",
    others=r"(masked_embed|mask_token)$|(fc|head)\.",
  ),
  Layout(
    "MSN or I-JEPA",
    r"^blocks\.0\.",
    student=("encoder", ""),
    teacher=("target_encoder", ""),
    published="teacher",
  ),
  Layout(
    "Barlow Twins or VICReg", r"^backbone\.", student=("model", "backbone.")
  ),
  Layout(
    "OpenMMLab, solo-learn or lightly",
    r"^backbone\.",
    student=("state_dict", "backbone."),
    teacher=("state_dict", "momentum_backbone."),
    others=r"(mask_token)$|(fc|head)\.",
  ),
  Layout(
    "SwAV or DeepCluster-v2",
    r"^(prototypes|projection_head)\.",
    student=("", ""),
    others=r"(prototypes|projection_head)\.",
  ),
  Layout(
    "MAE",
    r"^(decoder_embed|(vit\.)?decoder\.decoder_embed)\.",
    student=("", ""),
    others=r"mask_token$|decoder_|head\.",
  ),
  Layout(
    "a bare network",
    r".",
    student=("", ""),
    others=(
      r"(mask_token|masked_embed)$|(fc|head|heads|pooler|classifier)\."
      r"|decoder_"
    ),
  ),
)
# Groups that may hold a network without a prefix, in the order tried.
_BARE = ("state_dict", "model", "")


class Found(NamedTuple):
  """A backbone found in a file.

  Attributes:
    layout: layout of the file.
    network: "student" or "teacher", or "" if the layout has one network only.
    tensors: tensors by timm's or torchvision's names, without BatchNorm's
      `num_batches_tracked`.
    left_out: number of tensors of each other part, by the part's name.
  """

  layout: Layout
  network: str
  tensors: dict[str, Any]
  left_out: dict[str, int]


def find(file: File, what: Network | None) -> Found:
  """Finds the backbone in a file.

  Args:
    file: content of the file.
    what: which of two networks; by default the published one.

  Raises:
    ConfigError: the file has no tensors, no known layout, or not the requested
      network.
  """
  groups = {
    name: _without_wrappers(tensors)
    for name, tensors in _groups(file.content).items()
  }
  if not groups:
    raise ConfigError(
      f"{file.path} holds no tensors; it has"
      f" {', '.join(map(str, file.content))}."
    )
  for layout in LAYOUTS:
    networks = _networks(layout, groups)
    inside = {group for group, _ in networks.values()}
    if any(
      re.search(layout.sign, x) for group in inside for x in groups[group]
    ):
      break
  else:
    raise ConfigError(
      f"{file.path} has the layout of no known method; its groups are"
      f" {', '.join(map(repr, groups))}. Save the backbone's state_dict alone."
    )
  network = what or layout.published
  if what is None and network not in networks:
    (network,) = networks
  if network not in networks:
    raise ConfigError(
      f"{file.path} is of {layout.name} and has no {network}; it has a"
      f" {' and a '.join(networks)}."
    )
  group, prefix = networks[network]
  mine = {
    name.removeprefix(prefix): x
    for name, x in groups[group].items()
    if name.startswith(prefix)
  }
  left_out = collections.Counter(
    name.split(".")[0] for name in groups[group] if not name.startswith(prefix)
  )
  tensors = {}
  for name, x in foreign.to_timm(mine).items():
    if re.match(layout.others, name):
      left_out[f"{prefix}{name.split('.')[0]}"] += 1
    elif not name.endswith("num_batches_tracked"):
      tensors[name] = x
  only = layout.teacher is None
  return Found(layout, "" if only else network, tensors, dict(left_out))


def _networks(
  layout: Layout, groups: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[str, str]]:
  """(group, prefix) of each network of a layout that the file has."""
  found = {}
  for key in ("student", "teacher"):
    place = getattr(layout, key)
    if place == ("", ""):
      place = next(((group, "") for group in _BARE if group in groups), None)
    if place and any(x.startswith(place[1]) for x in groups.get(place[0], ())):
      found[key] = place
  return found


def _groups(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Tensors at the top level, as "", and in each group of a file."""
  found = {"": content} | {
    str(key): value
    for key, value in content.items()
    if isinstance(value, Mapping)
  }
  tensors = {
    group: {
      str(key): x
      for key, x in values.items()
      if hasattr(x, "shape") and hasattr(x, "dtype")
    }
    for group, values in found.items()
  }
  return {group: some for group, some in tensors.items() if some}


def _without_wrappers(tensors: dict[str, Any]) -> dict[str, Any]:
  """Removes the prefixes of DistributedDataParallel and torch.compile."""
  for prefix in ("module.", "_orig_mod.", "module."):
    if all(name.startswith(prefix) for name in tensors):
      tensors = {k.removeprefix(prefix): x for k, x in tensors.items()}
  return tensors
