"""DINO: a student predicts a momentum teacher's distribution of another crop.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski and Joulin, Emerging Properties
in Self-Supervised Vision Transformers, ICCV 2021.
"""

from __future__ import annotations

import dataclasses

import jax

from sslx import losses, monitors, schedules
from sslx.config import require
from sslx.methods import multicrop
from sslx.methods.base import Method
from sslx.methods.center import Center
from sslx.methods.run import Aux, Batch, ModelState, Params, Run
from sslx.models import heads
from sslx.schedules import Schedule, Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINO(Method):
  """Section 3.1: self-distillation with no labels, over multi-crop.

  The backbone is a ViT or a ResNet. The first two views are the global crops,
  which the teacher sees; the student sees all views. The teacher normalises by
  the statistics of its own batch, drops no branch, and follows the student
  after each optimiser step, as in the official code.

  What else the official code has are rules of the optimiser: the prototypes are
  frozen at first (`freeze`), and each gradient is clipped by itself (`clip`).
  KoLeo, the regulariser of DINOv2, is not part of it. Small networks learn more
  with it (configs/README.md).

  Attributes:
    head: maps features to similarities to prototypes.
    temperature: tau_s, of the student.
    teacher_temperature: tau_t. A lower one sharpens the targets, which stops
      the collapse to uniform ones; the official code changes it by epoch.
    center_momentum: m of eq. 4. Centring stops the collapse to one prototype.
    momentum: lambda. It rises to 1 along half a cosine. A small batch wants a
      larger one, a short run a smaller one.
    koleo_weight: weight of KoLeo of the student's features, before the head, of
      both global crops. 0, the paper's, leaves it out.
    koleo_groups: groups of the global batch in which KoLeo seeks the nearest
      neighbours.
  """

  teachers = ("backbone", "head")
  evaluated = "teacher"
  num_views = (multicrop.TARGETS, None)

  head: heads.PrototypeHead
  temperature: Value = 0.1
  teacher_temperature: Value = 0.04
  center_momentum: float = 0.9
  momentum: Value = Schedule("cosine", start=0.996, final=1.0)
  koleo_weight: float = 0.0
  koleo_groups: int = 1

  def __post_init__(self):
    for key in ("temperature", "teacher_temperature"):
      schedules.require_positive(self, key)
    for key in ("center_momentum", "momentum"):
      schedules.require_between(self, key, 0, 1, "in [0, 1]")
    require(self, "koleo_weight", self.koleo_weight >= 0, "at least 0")
    batch, groups = self.plan.batch_size, self.koleo_groups
    divides = groups >= 1 and batch % groups == 0
    require(self, "koleo_groups", divides, f"a divisor of the batch, {batch}")

  @property
  def accumulates(self) -> bool:
    """Whether there is no KoLeo: all else is a mean over examples."""
    return self.koleo_weight == 0

  @property
  def _center(self) -> Center:
    return Center(self.center_momentum)

  def draw(
    self, rng: jax.Array, batch: Batch
  ) -> tuple[Params, ModelState, Aux]:
    """Draws the networks; the centre is 0."""
    params, model_state, _ = super().draw(rng, batch)
    return params, model_state, self._center.draw(self.head.prototypes)

  def loss(self, run: Run) -> jax.Array:
    """Computes eq. 3: the mean over all pairs of a target and another view."""
    h = multicrop.features(run, teacher=True)
    run.features = h[:, 0]
    outputs = run.teacher("head", h)  # [b, 2, K]
    targets = self._center.probabilities(
      outputs, run.at(self.teacher_temperature), run
    )
    h = multicrop.features(run)
    log_p = self._log_p(run("head", h), run)

    loss = losses.cross_views(targets, log_p)
    run.metrics = {
      **monitors.distillation(loss, targets),
      "center_norm": self._center.update(outputs, run),
    }
    return loss + self._koleo(h, run)

  def _log_p(self, scores: jax.Array, run: Run) -> jax.Array:
    """Returns the logarithms of the student's probabilities."""
    return jax.nn.log_softmax(scores / run.at(self.temperature))

  def _koleo(self, h: jax.Array, run: Run) -> jax.Array | float:
    """Computes the weighted KoLeo of the global crops among h[b, views, d]."""
    if self.koleo_weight == 0:
      return 0.0
    koleo, distances = zip(
      *(
        losses.koleo(h[:, i], self.koleo_groups, run.axis)
        for i in range(multicrop.TARGETS)
      ),
      strict=True,
    )
    run.metrics |= {"koleo_distance": sum(distances) / multicrop.TARGETS}
    return self.koleo_weight * sum(koleo)
