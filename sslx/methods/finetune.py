"""Fine-tuning: all of a network learns from labels, with a linear classifier.

For whole training sets as in MAE (appendix A.1) and DeiT; without mixing, for
1 % or 10 % of the labels as in SimCLR (section 4.3) and SwAV.
"""

from __future__ import annotations

import dataclasses
import functools

import jax

from sslx.config import require
from sslx.data import erasing, mix
from sslx.methods.classify import Classify, hits
from sslx.methods.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(Classify):
  """A backbone with a classifier, in training mode.

  Attributes:
    smoothing: share of the target that all classes have in equal parts (Szegedy
      et al., Rethinking the Inception Architecture, 2016, section 7).
    mix: how pairs of images are mixed, or None.
    erase: probability that a box of an image is replaced by noise.
  """

  smoothing: float = 0.0
  mix: mix.Mix | None = None
  erase: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    require(self, "smoothing", 0 <= self.smoothing < 1, "in [0, 1)")
    require(self, "erase", 0 <= self.erase <= 1, "a probability, 0 to 1")
    require(self, "features", len(self.features) == 1, "one name")
    one = self.classifier.copies == 1
    require(self.classifier, "copies", one, "1 where the network is trained")

  def loss(self, run: Run) -> jax.Array:
    """Computes the cross-entropy of the targets."""
    (x,) = run.views
    targets = self.targets(run.labels, self.smoothing)
    if self.erase:
      erase = functools.partial(erasing.erase, probability=self.erase)
      x = run.axis.by_example(erase, x, run.keys)
    if self.mix:
      x, targets = mix.mix(self.mix, x, targets, run.key, run.axis)
    h = run("backbone", x, every=True, **run.drop(0), **self.last)
    logits = run("classifier", {name: h[name] for name in self.features})
    run.features = h["final"]
    if not self.mix:  # A mixed image has no one class.
      run.metrics = {"top1": hits(logits, run.labels)}
    return self.cross_entropy(logits, targets)
