"""Linear evaluation: classifiers learn on a network that stays as it is.

Zhang, Isola and Efros, Colorful Image Colorization, ECCV 2016, section 3.2, and
every paper since. What differs between papers is in `configs/benchmarks`.
"""

from __future__ import annotations

import dataclasses

import jax

from sslx.methods.classify import Classify, hits
from sslx.methods.run import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Classify):
  """Linear classifiers of a frozen backbone, which uses running statistics.

  Several classifiers, such as DINOv2's for a grid of learning rates, are
  trained at once: they share the features and nothing else.
  """

  @property
  def frozen(self) -> tuple[str, ...]:
    """All of the backbone."""
    return ("^backbone/",)

  def loss(self, run: Run) -> jax.Array:
    """Computes the cross-entropy of the labels."""
    (x,) = run.views
    h = run.frozen("backbone", x, every=True, **self.last)
    logits = run("classifier", {name: h[name] for name in self.features})
    run.features = h["final"]
    run.metrics = {"top1": hits(logits, run.labels)}
    return self.cross_entropy(logits, self.targets(run.labels))
