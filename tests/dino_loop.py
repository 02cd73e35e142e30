"""The part of DINO's training loop that comes after the loss, in numpy."""

import jax
import numpy as np

EPS = 1e-3


class Loop:
  """`train_one_epoch` from the gradients on; DINOv2's has other factors.

  Attributes:
    student, teacher: parameters.
    step: updates so far.
  """

  def __init__(self, start, *, total, lr, ema, freeze, clip, mistake="",
               factor=lambda name: 1.0, last=1e-3, whole=False):  # fmt: skip
    self.student, self.teacher = start.params, start.aux["params"]
    self.total, self.lr, self.ema, self.freeze = total, lr, ema, freeze
    self.clip, self.mistake, self.factor = clip, mistake, factor
    self.last, self.whole = last, whole
    self.moments = jax.tree.map(lambda x: (np.zeros_like(x),) * 2, self.student)
    self.counts, self.step = {}, 0

  def falling(self):
    """Half a cosine, from 1 to 0."""
    return 0.5 * (1 + np.cos(np.pi * self.step / self.total))

  def update(self, grads):
    norm = lambda tree: np.sqrt(
      sum(np.sum(np.square(g)) for g in jax.tree.leaves(tree))
    )
    if self.whole or self.mistake == "clipped as a whole":
      least = min(1, self.clip / norm(grads))
      grads = jax.tree.map(lambda g: g * least, grads)
    else:
      grads = jax.tree.map(
        lambda g: g * min(1, self.clip / (norm(g) + 1e-6)), grads
      )
    both = jax.tree.map_with_path(
      self._adamw, self.student, grads, self.moments
    )
    before = self.student
    self.student, self.moments = (
      jax.tree.map(lambda _, x, i=i: x[i], before, both) for i in (0, 1)
    )
    followed = self.student
    if self.mistake == "before the optimiser":
      followed = before
    ema = 1 - (1 - self.ema) * self.falling()
    self.teacher = jax.tree.map(
      lambda old, new: ema * old + (1 - ema) * new, self.teacher, followed
    )
    self.step += 1

  def _adamw(self, path, p, g, moments):
    """torch's, for one parameter; and its new moments."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    frozen = self.step < self.freeze and self.mistake != "not frozen"
    if "prototypes" in name and frozen:
      return p, moments
    count = self.counts[name] = self.counts.get(name, 0) + 1
    rate = self.lr * (self.last + (1 - self.last) * self.falling())
    rate *= self.factor(name)
    decay = 0.4 + (0.04 - 0.4) * self.falling()
    one_d = p.ndim == 1 or name.endswith("bias")
    if one_d and self.mistake != "all decayed":
      decay = 0
    m = 0.9 * moments[0] + 0.1 * g
    v = 0.999 * moments[1] + 0.001 * g**2
    size = np.sqrt(v / (1 - 0.999**count)) + EPS
    return p - rate * (m / (1 - 0.9**count) / size + decay * p), (m, v)
