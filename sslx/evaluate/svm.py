"""Linear support vector machines on frozen features, one for each class.

References:
  Goyal et al., Scaling and Benchmarking Self-Supervised Visual Representation
  Learning, ICCV 2019, tasks 1 and 2. The settings are those of the code that
  came with it, which MMSelfSup has as `svm_voc07`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, ClassVar

import numpy as np

from sslx.config import ConfigError
from sslx.data import loader
from sslx.evaluate.subject import Subject

# The script names the first three; its code always adds the others.
COSTS = (1.0, 10.0, 100.0, *(0.5**n for n in range(4, 20)))
_ITERATIONS = 2000


@dataclasses.dataclass(frozen=True)
class SVM:
  """Mean average precision; each class chooses C by cross-validation.

  Differs from its source: a label is one class, so that every other image is a
  negative (VOC07 has several classes in an image, and ignores difficult ones);
  a feature is pooled over the whole image, not to 2 x 2 cells or more; the
  random numbers of the solver are fixed.

  Attributes:
    costs: values of C. Of equal ones the first wins.
    folds: of the cross-validation on the training set, stratified.
  """

  labelled: ClassVar[bool] = True
  on_host: ClassVar[bool] = True

  costs: tuple[float, ...] = COSTS
  folds: int = 3

  def __call__(self, subject: Subject) -> dict[str, float]:
    """Returns `map`, and `top1`: the class with the highest score is right.

    Raises:
      ConfigError: a class has fewer training images than folds.
    """
    (x, labels), (queries, answers) = _tables(subject)
    classes, counts = np.unique(labels, return_counts=True)
    if min(counts) < self.folds:
      raise ConfigError(
        f"class {classes[np.argmin(counts)]} has {min(counts)} training images;"
        f" the protocol cuts each class into {self.folds} parts, so it needs"
        " that many. Choose another protocol."
      )

    tasks = [
      (x, _signs(labels, c), cost, self.folds)
      for c in classes
      for cost in self.costs
    ]
    with _workers() as starmap:
      found = starmap(_scored, tasks)
      scores = np.array([score for score, _ in found])
      best = np.argmax(scores.reshape(len(classes), -1), axis=1)
      chosen = zip(classes, [self.costs[i] for i in best], strict=True)
      fitted = starmap(_fit, [(x, _signs(labels, c), y) for c, y in chosen])
    iterations = [m.n_iter_ for m in fitted]
    tell(subject, sum((mine for _, mine in found), iterations))
    decided = np.stack([m.decision_function(queries) for m in fitted], axis=1)
    return {
      "map": mean_average_precision(decided, answers, classes),
      "top1": float(np.mean(classes[np.argmax(decided, axis=1)] == answers)),
    }


@dataclasses.dataclass(frozen=True)
class LowShot:
  """Mean average precision after training on k images of each class.

  Like its source, it chooses C on the test set, one value for each k: by the
  mean over the samples. So the figures flatter, all alike. Images of the other
  classes are the negatives. The samples of the source are files; here sample s
  is drawn by numpy's generator of seed s, and a larger k adds images to it.

  Attributes:
    k: training images of each class; those larger than a class are left out.
    samples: number of samples.
    costs: values of C. Of equal ones the first wins.
  """

  labelled: ClassVar[bool] = True
  on_host: ClassVar[bool] = True

  k: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
  samples: int = 5
  costs: tuple[float, ...] = COSTS

  def __call__(self, subject: Subject) -> dict[str, float]:
    """Returns `map_k<k>` and `map_k<k>_std`, over the samples."""
    (x, labels), (queries, answers) = _tables(subject)
    classes, counts = np.unique(labels, return_counts=True)
    possible = [k for k in self.k if k <= min(counts)]
    if len(possible) < len(self.k):
      subject.note(
        f"k={self.k} is cut to {tuple(possible)}: a class has only"
        f" {min(counts)} images"
      )
    drawn = [shuffled(labels, seed) for seed in range(self.samples)]
    results, iterations = {}, []
    with _workers() as starmap:
      for k in possible:
        ap = np.empty((self.samples, len(self.costs)))
        for s, order in enumerate(drawn):
          rows = np.concatenate([mine[:k] for mine in order])
          signs = [_signs(labels[rows], c) for c in classes]
          tasks = [(x[rows], y, cost) for cost in self.costs for y in signs]
          fitted = starmap(_fit, tasks)
          iterations += [m.n_iter_ for m in fitted]
          decided = np.stack([m.decision_function(queries) for m in fitted], 1)
          of_cost = np.split(decided, len(self.costs), axis=1)
          ap[s] = [mean_average_precision(d, answers, classes) for d in of_cost]
        best = np.argmax(ap.mean(axis=0))
        results[f"map_k{k}"] = float(ap[:, best].mean())
        results[f"map_k{k}_std"] = float(ap[:, best].std())
    tell(subject, iterations)
    return results


def shuffled(labels: np.ndarray, seed: int) -> list[np.ndarray]:
  """The rows of each class, int[n_c], in a random order of this seed."""
  rng = np.random.default_rng(seed)
  return [
    rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)
  ]


def machine(cost: float) -> Any:
  """An untrained LinearSVC: positives weigh twice, at most 2000 iterations."""
  from sklearn.svm import LinearSVC

  return LinearSVC(
    C=cost,
    class_weight={1: 2, -1: 1},
    loss="squared_hinge",
    dual=True,
    tol=1e-4,
    max_iter=_ITERATIONS,
    random_state=0,
  )


def mean_average_precision(
  scores: np.ndarray, labels: np.ndarray, classes: Sequence[int]
) -> float:
  """Averages `average_precision` over the classes that the labels have.

  Args:
    scores: float[n, c].
    labels: int[n].
    classes: the label of each column, int[c].
  """
  return float(
    np.mean(
      [
        average_precision(scores[:, i], labels == c)
        for i, c in enumerate(classes)
        if np.any(labels == c)
      ]
    )
  )


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
  """Area under the precision-recall curve, as VOC measures it since 2010.

  The precision at a recall is the highest at that recall or a higher one, so
  this is at least scikit-learn's `average_precision_score`.

  Args:
    scores: float[n].
    positive: bool[n], one of them at least.
  """
  hits = positive[np.argsort(-scores, kind="stable")]
  precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
  return float(np.maximum.accumulate(precision[::-1])[::-1][hits].mean())


def tell(subject: Subject, iterations: Sequence[int]) -> None:
  """Notes how many fits did not converge."""
  late = sum(n >= _ITERATIONS for n in iterations)
  if late:
    subject.note(
      f"{late} of {len(iterations)} fits of the SVM did not converge in"
      f" {_ITERATIONS} iterations, which the protocol allows"
    )


def _signs(labels: np.ndarray, c: int) -> np.ndarray:
  return np.where(labels == c, 1, -1)


def _tables(subject: Subject) -> list[tuple[np.ndarray, np.ndarray]]:
  """Rows of norm 1 and labels, of both sets."""
  tables = [subject.table(images) for images in (subject.train, subject.test)]
  unit = lambda x: x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)
  return [(unit(x), labels) for x, labels in tables]


def _fit(x: np.ndarray, signs: np.ndarray, cost: float) -> Any:
  return machine(cost).fit(x, signs)


def _scored(
  x: np.ndarray, signs: np.ndarray, cost: float, folds: int
) -> tuple[float, list[int]]:
  """Mean AP over the folds, and the iterations of each fit."""
  from sklearn.model_selection import cross_validate

  found = cross_validate(
    machine(cost),
    x,
    signs,
    cv=folds,
    scoring="average_precision",
    return_estimator=True,
  )
  return np.mean(found["test_score"]), [m.n_iter_ for m in found["estimator"]]


@contextlib.contextmanager
def _workers() -> Iterator[Callable[..., list[Any]]]:
  """Gives (function, tasks) -> results, computed on all cores.

  In processes: liblinear has one random generator for a whole process. Threads
  would take numbers from each other, so that figures would differ by chance.
  """
  context = multiprocessing.get_context("spawn")
  workers = loader.default_threads()
  with futures.ProcessPoolExecutor(workers, context, _quiet) as pool:
    yield lambda function, tasks: list(
      pool.map(function, *zip(*tasks, strict=True))
    )


def _quiet() -> None:
  """Silences a worker's warnings of convergence, which `tell` counts."""
  from sklearn.exceptions import ConvergenceWarning

  warnings.simplefilter("ignore", ConvergenceWarning)
