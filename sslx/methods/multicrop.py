"""Multi-crop: views of several sizes, of which the first two are targets.

Caron et al., SwAV, NeurIPS 2020, section 3.2.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sslx.methods.run import Run

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
