"""FLOPs that each method requires, counted from its paper.

Which networks see which views, and which of these passes need a gradient. A
gradient costs two forward passes, but the first layer needs none of its input,
and none at all if it is frozen.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from sslx.benchmark import work
from sslx.methods.barlow_twins import BarlowTwins
from sslx.methods.byol import BYOL
from sslx.methods.dino import DINO
from sslx.methods.dinov2 import DINOv2
from sslx.methods.ibot import IBOT
from sslx.methods.ijepa import IJEPA
from sslx.methods.lejepa import LeJEPA
from sslx.methods.mae import MAE
from sslx.methods.moco import MoCo
from sslx.methods.mocov3 import MoCoV3
from sslx.methods.multicrop import TARGETS
from sslx.methods.relative_loc import PATCHES, RelativeLoc
from sslx.methods.simclr import SimCLR
from sslx.methods.simsiam import SimSiam
from sslx.methods.swav import SwAV
from sslx.methods.vicreg import VICReg


def required(experiment) -> float:
  """FLOPs of one step, for the whole batch."""
  step, b = experiment.step, experiment.data.batch_size
  shapes = [(b, *step.view_shape(slot)) for slot in step.slots]
  return _COUNTS[type(step.method)](step.method, shapes)


def _simclr(method: SimCLR, views: list[tuple[int, ...]]) -> float:
  d, n = method.projector.dims[-1], 2 * views[0][0]
  network = sum(_trained(method, "projector", x) for x in views)
  return network + 3 * 2 * n * n * d  # anchors and candidates have gradients


def _moco(method: MoCo, slots: list[tuple[int, ...]]) -> float:
  queries = 2 if method.symmetric else 1
  b, d = slots[0][0], method.projector.dims[-1]
  trained = queries * _trained(method, "projector", slots[0])
  keys = queries * _forward(method, "projector", slots[-1])
  return trained + keys + queries * 2 * 2 * b * method.queue_size * d


def _swav(method: SwAV, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  network = sum(_trained(method, "projector", x) for x in views)
  past = 2 * TARGETS * method.queue_size * d * method.prototypes
  return network + 3 * 2 * b * len(views) * d * method.prototypes + past


def _relative_loc(method: RelativeLoc, views: list[tuple[int, ...]]) -> float:
  b, _, *patch = views[0]
  pairs = b * (PATCHES - 1)
  patches = (b * PATCHES, *patch)
  _, backbone = _matmuls(method.backbone, patches)
  d = _width(method.backbone, patches)
  head = pairs * 2 * method.head.hidden * (2 * d + method.head.classes)
  return backbone + 3 * head


def _mocov3(method: MoCoV3, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  predictor, _ = _matmuls(method.predictor, (b, d))
  trained = sum(_trained(method, "projector", x) + 3 * predictor for x in views)
  keys = sum(_forward(method, "projector", x) for x in views)
  # Keys need no gradient.
  return trained + keys + len(views) * 2 * 2 * b * b * d


def _barlow_twins(method: BarlowTwins, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  network = sum(_trained(method, "projector", x) for x in views)
  return network + 3 * 2 * b * d * d  # both views have gradients


def _vicreg(method: VICReg, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  network = sum(_trained(method, "projector", x) for x in views)
  return network + len(views) * 3 * 2 * b * d * d


def _lejepa(method: LeJEPA, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  network = sum(_trained(method, "projector", x) for x in views)
  # The random directions have no gradient.
  return network + len(views) * 2 * 2 * b * d * method.directions


def _byol(method: BYOL, views: list[tuple[int, ...]]) -> float:
  target = sum(_forward(method, "projector", x) for x in views)
  return _siamese(method, views) + target


def _siamese(method: Any, views: list[tuple[int, ...]]) -> float:
  b, d = views[0][0], method.projector.dims[-1]
  predictor, _ = _matmuls(method.predictor, (b, d))
  return sum(_trained(method, "projector", x) + 3 * predictor for x in views)


def _dino(method: DINO, views: list[tuple[int, ...]]) -> float:
  sizes, teacher = _multicrop(views)
  trained = sum(_trained(method, "head", x) for x in sizes)
  return trained + _forward(method, "head", teacher)


def _ibot(method: IBOT, views: list[tuple[int, ...]]) -> float:
  networks, b, patches = _of_tokens(method, views)
  # The teacher's centre is of all patches; the student predicts the masked.
  masked = int(method.mask_ratio[1] * patches)
  return networks + _heads(
    method, "head", b * len(views) + 2 * b * masked, 2 * b * (1 + patches)
  )


def _dinov2(method: DINOv2, views: list[tuple[int, ...]]) -> float:
  networks, b, patches = _of_tokens(method, views)
  masked = b * int(method.mask_ratio[1] * patches)  # Of one crop of each image.
  of_patches = "head" if method.patch_head is None else "patch_head"
  neighbours = 2 * 2 * b * b * method.backbone.sizes[0]
  return (
    networks
    + _heads(method, "head", b * len(views), 2 * b)
    + _heads(method, of_patches, masked, masked)
    + neighbours
  )


def _multicrop(
  views: list[tuple[int, ...]],
) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
  """All crops of each size as a batch; those that the teacher sees."""
  sizes = [(b * n, *shape) for (b, *shape), n in Counter(views).items()]
  return sizes, (2 * views[0][0], *views[0][1:])


def _of_tokens(
  method: Any, views: list[tuple[int, ...]]
) -> tuple[float, int, int]:
  """FLOPs of both backbones; images; patches of a crop."""
  sizes, teacher = _multicrop(views)
  trained = sum(_matmuls(method.backbone, x)[1] for x in sizes)
  side = views[0][1] // method.backbone.patch_size
  forward, _ = _matmuls(method.backbone, teacher)
  return trained + forward, views[0][0], side**2


def _heads(method: Any, name: str, trained: int, teacher: int) -> float:
  """FLOPs of the student's and the teacher's head, for numbers of tokens."""
  d, head = method.backbone.sizes[0], getattr(method, name)
  count = lambda rows: _matmuls(head, (rows, d))[0]
  return 3 * count(trained) + count(teacher)


def _mae(method: MAE, views: list[tuple[int, ...]]) -> float:
  b, images = views[0][0], jax.ShapeDtypeStruct(views[0], jnp.float32)
  visible, patches = method.visible(images)
  keep, restore = (jnp.zeros((b, n), jnp.int32) for n in (visible, patches))
  _, encoder = _matmuls(method.backbone, views[0], method="tokens", keep=keep)
  tokens = (b, 1 + visible, method.backbone.sizes[0])
  decoder, _ = _matmuls(
    method.decoder, tokens, restore=restore, **method.decoded(images)
  )
  return encoder + 3 * decoder


def _ijepa(method: IJEPA, views: list[tuple[int, ...]]) -> float:
  """Encoder of the room for a context, target encoder, m sequences each."""
  b, images = views[0][0], jax.ShapeDtypeStruct(views[0], jnp.float32)
  grid = method.backbone.grid(images)
  sizes, _, room = method.room(grid)
  m, t = method.targets, int(sizes.prod(axis=1).max())
  places, targets = (
    jnp.zeros(shape, jnp.int32) for shape in ((b, room), (b, m, t))
  )
  shown = places == 0
  whole, _ = _matmuls(method.backbone, views[0], method="tokens")
  _, encoder = _matmuls(
    method.backbone, views[0], method="tokens", keep=places, valid=shown
  )
  predictor, _ = _matmuls(
    method.predictor,
    (b, room, method.backbone.sizes[0]),
    places=places,
    valid=shown,
    targets=targets,
    predicted=targets[0, 0] == 0,
    grid=grid,
    trained=method.backbone.trained_grid,
  )
  return whole + encoder + 3 * predictor


_COUNTS = {
  SimCLR: _simclr,
  MoCo: _moco,
  SwAV: _swav,
  RelativeLoc: _relative_loc,
  MoCoV3: _mocov3,
  BYOL: _byol,
  SimSiam: _siamese,
  MAE: _mae,
  IJEPA: _ijepa,
  DINO: _dino,
  IBOT: _ibot,
  DINOv2: _dinov2,
  BarlowTwins: _barlow_twins,
  VICReg: _vicreg,
  LeJEPA: _lejepa,
}


def _trained(method: Any, head: str, images: tuple[int, ...]) -> float:
  """FLOPs of the forward and backward pass of backbone and head."""
  _, backbone = _matmuls(method.backbone, images)
  d = _width(method.backbone, images)
  forward, _ = _matmuls(getattr(method, head), (images[0], d))
  return backbone + 3 * forward


def _forward(method: Any, head: str, images: tuple[int, ...]) -> float:
  """FLOPs of the forward pass of backbone and head."""
  backbone, _ = _matmuls(method.backbone, images)
  d = _width(method.backbone, images)
  return backbone + _matmuls(getattr(method, head), (images[0], d))[0]


def _width(backbone: Any, images: tuple[int, ...]) -> int:
  return jax.eval_shape(*_bound(backbone, images)).shape[-1]


def _bound(
  module: Any, shape: tuple[int, ...], **arguments: Any
) -> tuple[Any, ...]:
  """A module's forward pass, and the shapes of its arguments."""
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  init = lambda x: module.init(jax.random.key(0), x, train=False, **arguments)
  variables = jax.eval_shape(init, x)
  apply = lambda variables, x: module.apply(
    variables, x, train=True, mutable=["batch_stats"], **arguments
  )[0]
  return apply, variables, x


def _matmuls(
  module: Any, shape: tuple[int, ...], **arguments: Any
) -> tuple[float, float]:
  """FLOPs of the forward pass alone, and of forward and backward together."""
  if getattr(module, "positions", "") == "learned":
    # Resizing them costs next to nothing, and is not the first layer.
    module = module.clone(positions="sincos")
  apply, *shapes = _bound(module, shape, **arguments)
  counts = list(work._counts(jax.make_jaxpr(apply)(*shapes).jaxpr))
  forward = sum(counts)
  saved = 2 if getattr(module, "frozen", ()) else 1
  return forward, 3 * forward - saved * counts[0]
