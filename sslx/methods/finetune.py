"""Fine-tuning: all of a network learns from labels, with a linear classifier.

For whole training sets as in MAE (appendix A.1) and DeiT; without mixing, for
1 % or 10 % of the labels as in SimCLR (section 4.3) and SwAV.
"""

from __future__ import annotations

import dataclasses

import jax

from sslx.config import require
from sslx.methods.classify import Classify, hits
from sslx.methods.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(Classify):
  """A backbone with a classifier, in training mode.

  Attributes:
    smoothing: share of the target that all classes have in equal parts (Szegedy
      et al., Rethinking the Inception Architecture, 2016, section 7).
  """

  smoothing: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    require(self, "smoothing", 0 <= self.smoothing < 1, "in [0, 1)")
    require(self, "features", len(self.features) == 1, "one name")
    one = self.classifier.copies == 1
    require(self.classifier, "copies", one, "1 where the network is trained")

  def loss(self, run: Run) -> jax.Array:
    """Computes the cross-entropy of the targets."""
    (x,) = run.views
    targets = self.one_hot(run.labels)
    if self.smoothing:
      labelled = targets.sum(-1, keepdims=True)
      even = labelled / self.classifier.classes
      targets = (1 - self.smoothing) * targets + self.smoothing * even
    drop = getattr(self.backbone, "drop_path", 0)
    arguments = {"keys": run.keys} if drop else {}
    h = run("backbone", x, every=True, **arguments, **self.last)
    logits = run("classifier", {name: h[name] for name in self.features})
    run.features = h["final"]
    run.metrics = {"top1": hits(logits, run.labels)}
    return self.cross_entropy(logits, targets)
