"""I-JEPA: predicts the features of blocks of an image from those of another.

Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun and Ballas,
Self-Supervised Learning from Images with a Joint-Embedding Predictive
Architecture, CVPR 2023.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslx import config as config_lib
from sslx import losses, monitors, schedules
from sslx.methods.base import Method, chain
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import patches as patches_lib
from sslx.models import predictor as predictor_lib
from sslx.models import regions, vit
from sslx.schedules import Schedule, Value


class Blocks(NamedTuple):
  """The patches of the context and of the m targets of each image.

  Attributes:
    context: i32[b, k], patches of the context, then padding.
    shown: bool[b, k], which of them are not padding.
    targets: i32[b, m, t], patches of the targets, then padding.
    asked: bool[t], which of them are not padding, in all images alike.
    hidden: bool[b, n], which of all patches are in some target.
  """

  context: jax.Array
  shown: jax.Array
  targets: jax.Array
  asked: jax.Array
  hidden: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class IJEPA(Method):
  """Section 3: context encoder, target encoder, predictor.

  The backbone is the context encoder, which sees only the context. The teacher
  is the target encoder, which sees the whole image; it is evaluated, by the
  mean of its tokens.

  Blocks are drawn as in the official code. All targets of a step have one size,
  and all contexts, for which one number sets scale and aspect ratio; each image
  has places of its own. No block reaches the last row or column of patches.

  Three things differ. The official code cuts the contexts of the batch of each
  device to the smallest among them, by leaving out the patches at the bottom
  (facebookresearch/ijepa#60). Of 128 images with 14 x 14 patches it keeps 51 of
  82 on average, and the result depends on the number of devices. Here each
  image keeps its own context: the arrays have room for the largest, and no
  token attends to padding. If `context_limit` makes less room, chance decides
  which patches of too large a context are left out. Second, one of 4096 numbers
  sets the sizes, so that the largest is known. Third, learning rate and weight
  decay follow one step later.

  Attributes:
    predictor: predicts the tokens of a target from those of the context.
    momentum: of the target encoder. It rises to 1 along a line.
    targets: number of targets of each image, m.
    target_scale: range of their share of all patches.
    target_aspect: range of their ratio of rows to columns.
    context_scale: range of the context's share, before the targets are taken
      out of it; it is square.
    context_least: a context has more patches than this.
    context_limit: the largest context that the encoder has room for, as a share
      of all patches. The cost of a step grows with it.
  """

  teachers = ("backbone",)
  evaluated = "teacher"
  num_views = (1, 1)
  # The loss is a mean over independent examples.
  accumulates = True

  predictor: predictor_lib.Predictor
  momentum: Value = Schedule("linear", start=0.996, final=1.0)
  targets: int = 4
  target_scale: tuple[float, float] = (0.15, 0.2)
  target_aspect: tuple[float, float] = (0.75, 1.5)
  context_scale: tuple[float, float] = (0.85, 1.0)
  context_least: int = 10
  context_limit: float = 1.0

  def __post_init__(self):
    if not isinstance(self.backbone, vit.ViT):
      raise ValueError(
        "backbone.name must be 'vit' for I-JEPA, whose encoder looks at some of"
        " the patches of an image."
      )
    for key in ("class_token", "pool_norm"):
      if getattr(self.backbone, key):
        raise ValueError(
          f"backbone.{key} is True; it must be False for I-JEPA, which predicts"
          " the normalised tokens of patches."
        )
    if self.backbone.attention != "xla":
      raise ValueError(
        f"backbone.attention is {self.backbone.attention!r}; it must be 'xla'"
        " for I-JEPA, whose images have different numbers of patches to see."
      )
    schedules.require_between(self, "momentum", 0, 1, "in [0, 1]")
    config_lib.require(self, "targets", self.targets >= 1, "at least 1")
    for key in ("target_scale", "context_scale"):
      low, high = getattr(self, key)
      possible = 0 < low <= high <= 1
      config_lib.require(self, key, possible, "a range within (0, 1]")
    low, high = self.target_aspect
    possible = 0 < low <= high
    config_lib.require(self, "target_aspect", possible, "a range above 0")
    possible = self.context_least >= 0
    config_lib.require(self, "context_least", possible, "at least 0")
    possible = 0 < self.context_limit <= 1
    config_lib.require(self, "context_limit", possible, "in (0, 1]")

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws encoder and predictor.

    Raises:
      ConfigError: the grid of patches is too small for the blocks.
    """
    (images,) = batch["views"]
    self._check_room(images)
    rng_encoder, rng_predictor = jax.random.split(rng)
    params, model_state = chain(
      {"backbone": self.backbone}, rng_encoder, images
    )
    one = jnp.zeros((2, 1), jnp.int32)
    predictor = self.predictor.init(
      rng_predictor,
      jnp.zeros((2, 1, self.backbone.sizes[0])),
      places=one,
      valid=one == 0,
      targets=one[..., None],
      predicted=one[0] == 0,
      grid=self.backbone.grid(images),
      trained=self.backbone.trained_grid,
      train=False,
    )
    params["predictor"] = predictor["params"]
    return params, {**model_state, "predictor": {}}, {}

  def loss(self, run: Run) -> jax.Array:
    """Computes the smooth L1 distance to the target encoder's tokens."""
    (images,) = run.views
    blocks = self.blocks(run)
    tokens = run.teacher("backbone", images, method="tokens")
    run.features = self.backbone.pooled(tokens)["pooled"]
    before = self.backbone.before
    normed = normalized(tokens[:, before:])
    flat = blocks.targets.reshape(len(images), -1)
    target = patches_lib.taken(normed, flat)

    context = run(
      "backbone",
      images,
      method="tokens",
      keep=blocks.context,
      valid=blocks.shown,
    )
    predicted = run(
      "predictor",
      context[:, before:],
      places=blocks.context,
      valid=blocks.shown,
      targets=blocks.targets,
      predicted=blocks.asked,
      grid=self.backbone.grid(images),
      trained=self.backbone.trained_grid,
    )
    error = losses.smooth_l1(predicted, target.reshape(predicted.shape))
    run.metrics = {
      "context_ratio": ratio(blocks.shown, normed.shape[1]),
      "masked_ratio": ratio(blocks.hidden, normed.shape[1]),
      "target_std": monitors.token_std(normed),
    }
    # Targets have one size, so the mean over images is that over all tokens.
    asked = blocks.asked / jnp.sum(blocks.asked)
    return jnp.mean(jnp.sum(jnp.mean(error, axis=-1) * asked, axis=-1))

  def blocks(self, run: Run) -> Blocks:
    """Draws the blocks of a step."""
    (images,) = run.views
    grid = self.backbone.grid(images)
    targets, contexts, room = self.room(grid)
    # No example has this number.
    key = jax.random.fold_in(run.key, 2**31 - 1)
    key_target, key_context = jax.random.split(key)
    target = regions.drawn(key_target, targets)
    context = regions.drawn(key_context, contexts)
    most = int(targets.prod(axis=1).max())

    def of_image(key: jax.Array) -> tuple[jax.Array, ...]:
      keys = jax.random.split(key, 3)
      corners = regions.corners(keys[0], target, grid, self.targets)
      inside = jax.vmap(lambda x: regions.inside(x, target, grid))(corners)
      listed = jax.vmap(lambda x: regions.patches(x, target, grid, most))
      left = regions.context(keys[1], context, inside, grid, self.context_least)
      chosen, shown = regions.chosen(keys[2], left, room)
      return chosen, shown, listed(corners), jnp.any(inside, axis=0)

    chosen, shown, listed, hidden = jax.vmap(of_image)(run.keys)
    asked = jnp.arange(most) < jnp.prod(target)
    return Blocks(chosen, shown, listed, asked, hidden)

  def room(self, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the sizes of targets and of contexts, and room for a context.

    Args:
      grid: rows and columns of patches.

    Returns:
      i32[4096, 2], i32[4096, 2], see `regions.sizes`; the number of patches of
      a context that the encoder has room for.
    """
    targets = regions.sizes(grid, self.target_scale, self.target_aspect)
    contexts = regions.sizes(grid, self.context_scale, (1.0, 1.0))
    limit = int(self.context_limit * grid[0] * grid[1])
    return targets, contexts, min(int(contexts.prod(axis=1).max()), limit)

  def _check_room(self, images: jax.Array) -> None:
    grid = self.backbone.grid(images)
    targets, contexts, room = self.room(grid)
    told = f"for {grid[0]} x {grid[1]} patches"
    for key, sizes in (("target", targets), ("context", contexts)):
      if sizes.min() < 1:
        raise config_lib.ConfigError(
          f"config.model.{key}_scale is {getattr(self, f'{key}_scale')}, too"
          f" little {told}: a block would have no patch. Make it larger, or"
          " model.backbone.patch_size smaller."
        )
    least = min(int(contexts.prod(axis=1).min()), room)
    if least <= self.context_least:
      raise config_lib.ConfigError(
        f"config.model.context_least is {self.context_least}; {told} it must be"
        f" below {least}, the least room for a context. Make it smaller, or"
        " model.context_scale and model.context_limit larger."
      )


def normalized(tokens: jax.Array) -> jax.Array:
  """Applies LayerNorm without parameters, with torch's epsilon, to [..., d]."""
  mean = jnp.mean(tokens, axis=-1, keepdims=True)
  var = jnp.var(tokens, axis=-1, keepdims=True)
  return (tokens - mean) * jax.lax.rsqrt(var + 1e-5)


def ratio(mask: jax.Array, patches: int) -> jax.Array:
  """Returns the mean number of true values per image, divided by `patches`."""
  return jnp.mean(jnp.sum(mask, axis=1)) / patches
