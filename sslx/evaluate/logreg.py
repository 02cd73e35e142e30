"""Multinomial logistic regression on frozen features, as in DINOv2."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar

import numpy as np

from sslx.config import ConfigError
from sslx.evaluate.subject import Subject

GRID = tuple((10 ** np.linspace(-6, 5, 45)).tolist())


@dataclasses.dataclass(frozen=True)
class LogisticRegression:
  """Top-1 accuracy; C is chosen on a part of the training set.

  The C with the best accuracy there wins, of equal ones the smallest. The
  classifier of the result is fitted to the whole training set.

  Differs from its source: the solver is scikit-learn's L-BFGS with its
  tolerance of 1e-4 on the gradient, and not cuML's with 1e-12, so a fit may
  stop sooner; the held-out images are drawn by class, and not from all images
  together.

  Attributes:
    grid: values of C, ascending.
    held_out: share of the training set on which C is chosen.
    max_iter: iterations of L-BFGS.

  References:
    Oquab et al., DINOv2, 2023; the settings are in `eval/log_regression.py`.
  """

  labelled: ClassVar[bool] = True
  on_host: ClassVar[bool] = True

  grid: tuple[float, ...] = GRID
  held_out: float = 0.1
  max_iter: int = 1000

  def __call__(self, subject: Subject) -> dict[str, float]:
    """Returns `top1`, and the `C` that was chosen.

    Raises:
      ConfigError: the training set is too small to hold images of each class
        out.
    """
    from sklearn.model_selection import train_test_split

    x, labels = subject.table(subject.train)
    queries, answers = subject.table(subject.test)
    classes, counts = np.unique(labels, return_counts=True)
    if min(counts) < 2 or self.held_out * len(x) < len(classes):
      raise ConfigError(
        f"the training set has {len(x)} images of {len(classes)} classes, and"
        f" the fewest of a class are {min(counts)}. The protocol holds out"
        f" {self.held_out:.0%} to choose C: it needs at least"
        f" {round(1 / self.held_out)} images a class. Choose another protocol."
      )
    kept, held, kept_labels, held_labels = train_test_split(
      x, labels, test_size=self.held_out, stratify=labels, random_state=0
    )
    late = 0

    def fit(c: float, x: np.ndarray, labels: np.ndarray) -> Any:
      nonlocal late
      model, converged = fitted(c, self.max_iter, x, labels)
      late += not converged
      return model

    scores = [
      fit(c, kept, kept_labels).score(held, held_labels) for c in self.grid
    ]
    best = self.grid[int(np.argmax(scores))]
    model = fit(best, x, labels)
    if late:
      subject.note(
        f"{late} of {len(self.grid) + 1} fits of the logistic regression did"
        f" not converge in {self.max_iter} iterations, which the protocol"
        " allows"
      )
    return {"top1": float(model.score(queries, answers)), "C": best}


def fitted(
  c: float, max_iter: int, x: np.ndarray, labels: np.ndarray
) -> tuple[Any, bool]:
  """Returns a fitted classifier, and whether it converged."""
  from sklearn import linear_model
  from sklearn.exceptions import ConvergenceWarning

  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = linear_model.LogisticRegression(C=c, max_iter=max_iter)
    model.fit(x, labels)
  late = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
  for other in caught:
    if other not in late:
      warnings.warn_explicit(
        other.message, other.category, other.filename, other.lineno
      )
  return model, not late
