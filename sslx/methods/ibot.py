"""iBOT: DINO, and a teacher's distribution of each masked patch is predicted.

Zhou, Wei, Wang, Shen, Xie, Yuille and Kong, iBOT: Image BERT Pre-Training with
Online Tokenizer, ICLR 2022.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from sslx import config as config_lib
from sslx import losses, monitors
from sslx.data import augment
from sslx.data.views import Slot, View
from sslx.methods import multicrop
from sslx.methods.center import Center
from sslx.methods.dino import DINO
from sslx.methods.multicrop import TARGETS
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import masks, patches


@dataclasses.dataclass(frozen=True, kw_only=True)
class IBOT(DINO):
  """Section 3.2, with the shared head: DINO with masked image modelling.

  The student sees the two global crops with masked patches, the teacher sees
  them whole. Each global crop has a mask with a probability, of a number of
  patches that is drawn for it. Masks are blocks.

  The head is shared by class tokens and patches, the teacher's temperature too.
  Centres are two. As in the official code, the centre of the patches is the
  mean of all patches, masked or not.

  Attributes:
    mask_probability: of a global crop to have a mask.
    mask_ratio: least and greatest share of its patches that a mask hides.
  """

  mask_probability: float = 0.5
  mask_ratio: tuple[float, float] = (0.1, 0.5)

  def __post_init__(self):
    super().__post_init__()
    multicrop.require_masks(self)
    chance = 0 < self.mask_probability <= 1
    config_lib.require(self, "mask_probability", chance, "in (0, 1]")

  def slots(self, views: tuple[View, ...]) -> tuple[Slot, ...]:
    """Checks also that both global crops have one size."""
    multicrop.require_one_size(self, views)
    return super().slots(views)

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the networks; both centres are 0."""
    params, model_state, buffers = super().draw(rng, batch)
    patch_center = self._patch_center.draw(self.head.prototypes)
    return params, model_state, buffers | patch_center

  @property
  def _patch_center(self) -> Center:
    return Center(self.center_momentum, "patch_center")

  def loss(self, run: Run) -> jax.Array:
    """Computes eq. 3 of DINO for class tokens, plus eq. 2 for patches."""
    mask = self._mask(run)
    temperature = run.at(self.teacher_temperature)
    before = self.backbone.before
    cls, tokens = multicrop.tokens(run, before, teacher=True)
    run.features = cls[:, 0]
    outputs = run.teacher("head", cls)  # [b, 2, K]
    patch_outputs = run.teacher("head", tokens)  # [b, 2, n, K]
    targets = self._center.probabilities(outputs, temperature, run)

    # The student's head need not see the patches that are not masked.
    crops = mask.reshape(-1, mask.shape[-1])
    found, weights = masks.indices(crops, self.mask_ratio[1])
    take = lambda x: patches.taken(x.reshape(-1, *x.shape[2:]), found)
    patch_targets = self._patch_center.probabilities(
      take(patch_outputs), temperature, run
    )

    cls, tokens = multicrop.tokens(run, before, mask)
    log_p = self._log_p(run("head", cls), run)
    patch_log_p = self._log_p(run("head", take(tokens)), run)

    cls_loss = losses.cross_views(targets, log_p)
    patch_loss = losses.masked_patches(patch_targets, patch_log_p, weights)
    run.metrics = {
      **monitors.distillation(cls_loss, targets),
      "cls_loss": cls_loss,
      "patch_loss": patch_loss,
      "masked_ratio": jnp.mean(mask.astype(jnp.float32)),
      "center_norm": self._center.update(outputs, run),
      "patch_center_norm": self._patch_center.update(patch_outputs, run),
    }
    return cls_loss + patch_loss + self._koleo(cls, run)

  def _mask(self, run: Run) -> jax.Array:
    """Draws the masks of both global crops, bool[b, 2, n]."""
    grid = self.backbone.grid(run.views[0])
    # BEiT's 16 patches of a grid of 14 x 14.
    least = (min(grid) // 3) ** 2
    found = []
    for n in range(TARGETS):
      # Drop path has the keys of the views.
      keys = augment.fold(run.keys, len(run.views) + n)
      u = augment.uniforms(keys, 0, 2)
      ratio = augment.between(*self.mask_ratio, u[:, 1])
      count = jnp.where(u[:, 0] < self.mask_probability, ratio, 0)
      found.append(
        masks.blocks(
          augment.fold(keys, 1), count * grid[0] * grid[1], grid, least,
          run.axis,
        )
      )  # fmt: skip
    return jnp.stack(found, axis=1)
