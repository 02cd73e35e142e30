"""Multi-crop: views of several sizes, of which the first two are targets.

Caron et al., SwAV, NeurIPS 2020, section 3.2.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sslx.config import ConfigError, require
from sslx.data.views import View
from sslx.methods.run import Run
from sslx.models.vit import ViT

TARGETS = 2  # The first two views give targets; all views predict them.


def groups(
  views: Sequence[jax.Array],
) -> list[tuple[tuple[int, ...], jax.Array]]:
  """Joins the views of one size that follow each other.

  The views of an image stay adjacent, which keeps them on its device.

  Args:
    views: [b, s, s, c] each.

  Returns:
    Numbers of the views, and their images [b * views, s, s, c], by size.
  """
  found = []
  by_size = lambda view: view[1].shape[1:]
  for _, same in itertools.groupby(enumerate(views), key=by_size):
    numbers, images = zip(*same, strict=True)
    x = jnp.stack(images, axis=1)
    found.append((numbers, x.reshape(-1, *x.shape[2:])))
  return found


def features(run: Run, *, teacher: bool = False) -> jax.Array:
  """Computes features of the views, f32[b, views, d].

  The backbone runs once per size, so that its BatchNorm sees images of one
  size, as in the official code of SwAV and of DINO.

  Args:
    run: its backbone is called, on all views; only the student drops branches.
    teacher: whether to call the teacher's, on the targets.
  """
  network = run.teacher if teacher else run
  views = run.views[:TARGETS] if teacher else run.views
  h = []
  for numbers, x in groups(views):
    one = network("backbone", x, **({} if teacher else run.drop(*numbers)))
    h.append(one.reshape(len(views[0]), len(numbers), -1))
  return jnp.concatenate(h, axis=1)


def tokens(
  run: Run, before: int, mask: jax.Array | None = None, *, teacher: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Computes class tokens of the views, and patches of the targets.

  Args:
    run: its backbone, a ViT, is called as by `features`.
    before: number of its tokens before the patches.
    mask: bool[b, 2, n], the patches of the targets that are replaced by the
      mask token; None for none.
    teacher: whether to call the teacher's, on the targets.

  Returns:
    f32[b, views, d]; f32[b, 2, n, d].
  """
  network = run.teacher if teacher else run
  views = run.views[:TARGETS] if teacher else run.views
  b, cls = len(views[0]), []
  for numbers, x in groups(views):
    arguments = {} if teacher else run.drop(*numbers)
    if mask is not None and 0 in numbers:
      others = (b, len(numbers) - TARGETS, mask.shape[-1])
      whole = jnp.concatenate([mask, jnp.zeros(others, bool)], axis=1)
      arguments["mask"] = whole.reshape(-1, mask.shape[-1])
    one = network("backbone", x, method="tokens", **arguments)
    one = one.reshape(b, len(numbers), *one.shape[1:])
    cls.append(one[:, :, 0])
    if 0 in numbers:
      patches = one[:, :TARGETS, before:]
  return jnp.concatenate(cls, axis=1), patches


def require_masks(method: Any) -> None:
  """Checks the settings of a method that masks patches of the targets.

  Raises:
    ValueError: they do not do.
  """
  name = type(method).__name__
  if not isinstance(method.backbone, ViT):
    raise ValueError(
      f"backbone.name must be 'vit' for {name}, which masks patches."
    )
  needed = {
    "backbone.class_token": True,
    "backbone.mask_token": True,
    "backbone.pool_norm": False,
    # The statistics of masked patches would not be those of all.
    "head.norm": False,
  }
  if getattr(method, "patch_head", None) is not None:
    needed["patch_head.norm"] = False
  for key, value in needed.items():
    found = operator.attrgetter(key)(method)
    if found != value:
      raise ValueError(f"{key} is {found}; it must be {value} for {name}.")
  low, high = method.mask_ratio
  fits = 0 <= low <= high < 1 and high > 0
  require(method, "mask_ratio", fits, "two ascending shares in [0, 1)")


def require_one_size(method: Any, views: tuple[View, ...]) -> None:
  """Raises ConfigError unless the targets, whose patches count, are alike."""
  sizes = [view.size for view in views[:TARGETS]]
  if len(set(sizes)) > 1:
    raise ConfigError(
      f"config.data.views begins with views of {sizes[0]} and {sizes[1]} px;"
      f" {type(method).__name__} takes two of one size, before all others."
    )
