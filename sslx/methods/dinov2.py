"""DINOv2: iBOT with heads apart, Sinkhorn-Knopp centring, and KoLeo.

Oquab, Darcet, Moutakanni et al., DINOv2: Learning Robust Visual Features
without Supervision, TMLR 2024.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx import losses, monitors
from sslx.data import augment
from sslx.data.views import Slot, View
from sslx.methods import multicrop
from sslx.methods.base import chain
from sslx.methods.center import Center
from sslx.methods.dino import DINO
from sslx.methods.multicrop import TARGETS
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import heads, masks, patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOv2(DINO):
  """Section 4: image-level and patch-level objectives, and a regulariser.

  The rest of the paper is the backbone's (LayerScale, SwiGLU, drop path of one
  probability, registers) and the optimiser's (layer-wise decay, schedules).

  Two things are defined apart from the devices, where the official code takes
  what one GPU holds:

  * It masks half of the global crops of a GPU, drawn at random, with ratios
    from as many equal parts of `mask_ratio`. Here it is one of the two global
    crops of each image, and the parts are of the global batch. So each device
    has as many masks as images.
  * KoLeo seeks the nearest neighbour among the images of a GPU. Here
    `koleo_groups` says among which: groups of the global batch.

  Attributes:
    patch_head: maps patches to similarities to prototypes; None if it is `head`
      that does so too.
    centering: how a teacher's outputs become targets: by their running mean, as
      in DINO, or by Sinkhorn-Knopp, as in SwAV, over the global batch.
    sinkhorn_iterations: number of iterations of Sinkhorn-Knopp.
    mask_ratio: least and greatest share of the patches that a mask hides.
  """

  teachers = ("backbone", "head", "patch_head")
  # Masks, Sinkhorn-Knopp and KoLeo depend on the whole batch.
  accumulates = False

  patch_head: heads.PrototypeHead | None = None
  centering: Literal["center", "sinkhorn"] = "center"
  sinkhorn_iterations: int = 3
  mask_ratio: tuple[float, float] = (0.1, 0.5)
  koleo_weight: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    multicrop.require_masks(self)
    iterations = self.sinkhorn_iterations >= 1
    config_lib.require(self, "sinkhorn_iterations", iterations, "at least 1")

  def slots(self, views: tuple[View, ...]) -> tuple[Slot, ...]:
    """Checks also that both global crops have one size."""
    multicrop.require_one_size(self, views)
    return super().slots(views)

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the networks; both heads take features. The centres are 0."""
    rng_networks, rng_patches = jax.random.split(rng)
    x = batch["views"][0]
    networks = {"backbone": self.backbone, "head": self.head}
    params, model_state = chain(networks, rng_networks, x)
    if self.patch_head is not None:
      token = jnp.zeros((1, self.backbone.sizes[0]))
      of_patches = chain({"patch_head": self.patch_head}, rng_patches, token)
      params, model_state = params | of_patches[0], model_state | of_patches[1]
    if self.centering == "sinkhorn":
      return params, model_state, {}
    buffers = self._center.draw(self.head.prototypes)
    width = (self.patch_head or self.head).prototypes
    return params, model_state, buffers | self._patch_center.draw(width)

  @property
  def _patch_center(self) -> Center:
    return Center(self.center_momentum, "patch_center")

  def loss(self, run: Run) -> jax.Array:
    """Computes the sum of DINO's, of iBOT's and of KoLeo's losses."""
    before = self.backbone.before
    of_patches = "head" if self.patch_head is None else "patch_head"
    mask = self._mask(run)
    # One of both crops has a mask: of all their patches half the share.
    found, weights = masks.indices(
      mask.reshape(len(mask), -1), self.mask_ratio[1] / TARGETS
    )
    take = lambda x: patches.taken(x.reshape(len(x), -1, x.shape[-1]), found)

    cls, tokens = multicrop.tokens(run, before, teacher=True)
    run.features = cls[:, 0]
    targets = self._targets(run.teacher("head", cls), self._center, run)
    outputs = run.teacher(of_patches, take(tokens))
    patch_targets = self._targets(
      outputs, self._patch_center, run, valid=weights > 0
    )

    cls, tokens = multicrop.tokens(run, before, mask)
    log_p = self._log_p(run("head", cls), run)
    patch_log_p = self._log_p(run(of_patches, take(tokens)), run)

    cls_loss = losses.cross_views(targets, log_p)
    # The mean over all global crops, with and without a mask.
    patch_loss = (
      losses.masked_patches(patch_targets, patch_log_p, weights) / TARGETS
    )
    run.metrics |= {
      **monitors.distillation(cls_loss, targets),
      **monitors.code_usage(targets.reshape(-1, targets.shape[-1]), run.axis),
      "cls_loss": cls_loss,
      "patch_loss": patch_loss,
      "masked_ratio": jnp.mean(mask.astype(jnp.float32)),
    }
    return cls_loss + patch_loss + self._koleo(cls, run)

  def _targets(
    self,
    outputs: jax.Array,
    center: Center,
    run: Run,
    valid: jax.Array | None = None,
  ) -> jax.Array:
    """Maps a teacher's outputs f32[b, m, K] to probabilities of that shape.

    Those that are not `valid`, bool[b, m], count for nothing.
    """
    temperature = run.at(self.teacher_temperature)
    if self.centering == "center":
      targets = center.probabilities(outputs, temperature, run)
      norm = center.update(outputs, run, valid)
      run.metrics |= {f"{center.name}_norm": norm}
      return targets
    scores = outputs / temperature
    if valid is not None:
      scores = jnp.where(valid[..., None], scores, -jnp.inf)
    codes = losses.sinkhorn(
      scores.reshape(-1, scores.shape[-1]), None, self.sinkhorn_iterations,
      run.axis,
    ).reshape(scores.shape)  # fmt: skip
    return codes if valid is None else jnp.where(valid[..., None], codes, 0)

  def _mask(self, run: Run) -> jax.Array:
    """Draws a mask of one of the global crops of each image, bool[b, 2, n]."""
    b, grid = len(run.views[0]), self.backbone.grid(run.views[0])
    # Drop path has the keys of the views.
    keys = augment.fold(run.keys, len(run.views))
    u = augment.uniforms(keys, 0, 2)
    # Each image of the batch has a part of the interval for itself.
    size = b * run.axis.size
    order = jax.random.permutation(run.key, size)
    share = (order[run.axis.positions(b)] + u[:, 0]) / size
    count = augment.between(*self.mask_ratio, share) * grid[0] * grid[1]
    mask = masks.blocks(
      augment.fold(keys, 1), jnp.floor(count), grid, 4, run.axis
    )
    first = u[:, 1:] < 1 / TARGETS
    return jnp.stack([mask & first, mask & ~first], axis=1)
